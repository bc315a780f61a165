"""What the transformer families share: a stock model whose last layer stands apart.

`core` is a model of the transformers library. Its output layer is taken out (an
identity stands in its place) and held as `head`, so that objectives can use the matrix
without the logits; on disk it has its stock name again. So a directory that we write is
what the stock class would have written, unless something was added that the stock class
cannot compute: mean pooling before a classifier, or dense layers. Such a directory has
the `model_type` casemate-transformer, which stock loaders do not know.

Invariant: `Network.forward` computes what the stock class computes. `load.py` checks
this on a few tokens for every architecture that is not one of those built here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.errors import RecipeError
from trainer.models import storage
from trainer.models.network import Network, NetworkSize, config_value, training_flops
from trainer.models.weights import CONFIG_FILE

MODEL_TYPE = "casemate-transformer"
# Built here, and tested to.
_KEEPING_DOCUMENTS = ("llama", "bert")
Task = Literal["language", "classification", "tagging", "embedding"]
Pooling = Literal["none", "stock", "first", "mean", "last"]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a core is used.

    Attributes:
        task: what its output stands for.
        pooling: how a text becomes one vector: "none" for tokens, "stock" as the core's
            own class does it, "first", "mean" or "last" over the base model's states.
    """

    task: Task
    pooling: Pooling


class TransformerNetwork(Network):
    """A stock model in three parts; the families say how it is called.

    Attributes:
        keeps_documents: whether masks of pairs keep the documents of a sequence apart.
    """

    keeps_documents: bool

    def __init__(
        self,
        core: PreTrainedModel,
        arrangement: Arrangement,
        *,
        labels: tuple[str, ...] = (),
        context: int,
        head: nn.Linear | None = None,
    ) -> None:
        """Take a stock model apart.

        Args:
            core: on any device; its weights are used, not copied.
            arrangement: what it is for.
            labels: names of the classes in order.
            context: tokens of a sequence.
            head: an output layer for a core that has none; else the core's own is used.

        Raises:
            RecipeError: the core has no output layer that can be found.
        """
        super().__init__()
        self.core = core
        self.arrangement = arrangement
        self.labels = labels
        self.context = context
        # `load.py` measures it for architectures that are not built here.
        self.keeps_documents = core.config.model_type in _KEEPING_DOCUMENTS
        self.level = "token" if arrangement.pooling == "none" else "text"
        self.vocabulary_size = int(core.config.vocab_size)
        pad = getattr(core.config, "pad_token_id", None)
        self.pad = pad if isinstance(pad, int) and pad >= 0 else None
        self.head_name = "classifier"
        self.head: nn.Linear | None = head
        if head is None and arrangement.task != "embedding":
            self.head_name, self.head = _take_head(core, arrangement.task)
        # By another name the stock class may hold the bias too, and store it so.
        self.bias_name = _take_bias(core, self.head) or f"{self.head_name}.bias"
        self.added = nn.Sequential()

    @property
    def base(self) -> PreTrainedModel:
        """The stock model without its head: embeddings and layers."""
        return self.core.base_model

    @property
    def features(self) -> nn.Module:
        """Embeddings and layers: the base model without its pooler."""
        return nn.ModuleList(m for name, m in self.base.named_children() if name != "pooler")

    @property
    def task(self) -> nn.Module | None:
        """A pooler, a transform before the output layer, and added dense layers."""
        modules: list[nn.Module] = []
        pooler = getattr(self.base, "pooler", None)
        if isinstance(pooler, nn.Module):
            modules.append(pooler)
        if self.base is not self.core:
            modules += [m for m in self.core.children() if m is not self.base]
        return _listed([*modules, *self.added])

    def blocks(self) -> list[nn.Module]:
        """Return the layers of all stacks, in order."""
        return layers_of(self.core)

    # -- size ----------------------------------------------------------------------

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        config = self.core.config
        heads = config_value(config, "num_attention_heads", "num_heads")
        width = config_value(config, "hidden_size", "d_model")
        return heads * config_value(config, "head_dim", "d_kv", default=width // heads)

    def size(self) -> NetworkSize:
        """Count weights and operations."""
        parameters = list(self.parameters())
        output = {id(p) for p in self.head.parameters()} if self.head is not None else set()
        tables = {
            id(m.weight): m.weight.numel()
            for m in self.modules()
            if isinstance(m, nn.Embedding) and id(m.weight) not in output
        }
        total, embedding = sum(p.numel() for p in parameters), sum(tables.values())
        layers = len(self.blocks())
        return NetworkSize(
            parameters=total,
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            embedding=embedding,
            layers=layers,
            width=config_value(self.core.config, "hidden_size", "d_model"),
            context=self.context,
            flops_per_token=self.flops(total - embedding, layers),
        )

    def flops(self, multiplied: int, layers: int) -> float:
        """Return the training operations of one token."""
        return training_flops(multiplied, layers, self.attention_width, self.context)

    # -- what is kept --------------------------------------------------------------

    @property
    def is_stock(self) -> bool:
        """Whether the stock class computes the same from what `save` writes."""
        pooled = self.arrangement.task == "classification" and self.arrangement.pooling != "stock"
        return len(self.added) == 0 and not pooled

    def stored_name(self, name: str) -> str:
        """Return the name on disk of a weight of `state_dict()`."""
        part, _, rest = name.partition(".")
        if part == "core":
            return rest
        if part == "added":
            return f"task_layers.{rest}"
        return self.bias_name if rest == "bias" else f"{self.head_name}.{rest}"

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors."""
        tensors = storage.complete_state(self, state)
        storage.write_weights(folder, {self.stored_name(n): t for n, t in tensors.items()})
        stock = self._configuration()
        if self.is_stock:
            storage.write_json(folder / CONFIG_FILE, stock)
            return
        values = {
            "family": self.family,
            "task": self.arrangement.task,
            "pooling": self.arrangement.pooling,
            "base": stock,
        }
        storage.write_own_config(
            folder, MODEL_TYPE, values, labels=self.labels, added=len(self.added)
        )

    def _configuration(self) -> dict[str, Any]:
        config = copy.deepcopy(self.core.config)
        config.architectures = [type(self.core).__name__]
        config.tie_word_embeddings = self.tied
        config.dtype = next(self.parameters()).dtype
        if self.labels:
            config.id2label = dict(enumerate(self.labels))
            config.label2id = {label: i for i, label in enumerate(self.labels)}
        values: dict[str, Any] = config.to_diff_dict()
        # A directory names no other place that it came from.
        values.pop("_name_or_path", None)
        return values

    # -- what finetuning changes -----------------------------------------------------

    def initialize(self, modules: list[nn.Module]) -> None:
        """Give modules of this network new weights, as the stock class would."""
        for module in modules:
            module.apply(self.core._init_weights)

    def replace_head(self) -> None:
        """Put a new output layer in place, of one row for each label; it is tied no more."""
        if self.head is None:
            raise RecipeError(f"this {self.family} makes embeddings and has no output layer")
        old, classes = self.head, len(self.labels) or self.head.out_features
        self.head = nn.Linear(
            old.in_features, classes, bias=old.bias is not None, device=old.weight.device
        )
        self.initialize([self.head])
        if self.arrangement.task == "language":
            self.core.config.tie_word_embeddings = False


def same_document(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Return which tokens share a document, bool [B, T, T], or None without boundaries."""
    documents = batch.get("document_ids")
    if documents is None:
        return None
    return documents[:, :, None] == documents[:, None, :]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the repeated layers of a stock model, in order."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def _take_head(core: PreTrainedModel, task: Task) -> tuple[str, nn.Linear]:
    """Take the output layer out of a stock model; return its name and itself."""
    found: nn.Module | None = None
    if task == "language":
        found = core.get_output_embeddings()
    else:
        inside = {id(m) for m in core.base_model.modules()}
        for module in core.modules():
            outside = isinstance(module, nn.Linear) and id(module) not in inside
            if outside and module.out_features == core.config.num_labels:
                found = module
    name = next((n for n, m in core.named_modules() if m is found), None)
    if name is None or not isinstance(found, nn.Linear):
        raise RecipeError(
            f"{type(core).__name__} has no output layer that is one matrix; it cannot be "
            "trained in three parts"
        )
    core.set_submodule(name, nn.Identity())
    return name, found


def _take_bias(core: PreTrainedModel, head: nn.Linear | None) -> str | None:
    """Leave the bias of the output layer to that layer alone; return its other name."""
    if head is None or head.bias is None:
        return None
    for prefix, module in core.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is head.bias:
                # Something empty stays, for the stock class to initialize.
                delattr(module, name)
                module.register_buffer(name, parameter.new_empty(0), persistent=False)
                return f"{prefix}.{name}" if prefix else name
    return None


def _listed(modules: list[nn.Module]) -> nn.ModuleList | None:
    kept = [m for m in modules if any(True for _ in m.parameters())]
    return nn.ModuleList(kept) if kept else None
