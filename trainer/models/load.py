"""Networks from directories on disk: Hugging Face's, and those that we wrote.

What is refused, before any weight is used: a directory without config.json, weights
that are pickled, an architecture that the installed transformers does not know (code
from the directory is never run), weights of other shapes than the configuration says,
or missing ones other than those of an output layer that is new anyway.

    1. Read config.json; a `model_type` of ours goes to `own`.
    2. Find the family and how the objective uses it.
    3. Load the stock class, float32, from safetensors.
    4. Take it apart; for an architecture that is not built here, check on a few tokens
       that the parts together compute what the stock class does.
    5. Settle the labels: keep the output layer, reorder it, or start a new one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from trainer.errors import CheckpointError, RecipeError
from trainer.models import architectures, storage
from trainer.models.architectures import class_for, family_of, first_line, stored_task
from trainer.models.decoder import Decoder
from trainer.models.encoder import POOLING_FOLDER, Encoder, arrange
from trainer.models.network import Network, config_value
from trainer.models.own import for_task, load_own, own_skeleton, settle_labels
from trainer.models.seq2seq import Seq2Seq
from trainer.models.transformer import Arrangement, TransformerNetwork
from trainer.recipe.schema import ModelOptions, ObjectiveOptions

_BUILT_HERE = ("llama", "bert", "t5")
_PROBE = (5, 6, 7, 8)
_DEFAULT_CONTEXT = 512
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)


def load_network(
    folder: Path,
    objective: ObjectiveOptions | None = None,
    labels: tuple[str, ...] = (),
    options: ModelOptions | None = None,
    *,
    context: int | None = None,
    vocabulary_size: int | None = None,
) -> Network:
    """Read a network from a directory.

    Args:
        folder: a Hugging Face directory, or one that `Network.save` wrote.
        objective: what it will learn; None takes it as it was saved, whole.
        labels: the classes in order; empty takes those of the directory. Others than the
            directory's start a new output layer; the same in another order reorder it.
        options: `family` must be the directory's; `dropout` above 0 replaces the
            directory's; `pooling` says how an encoder makes one vector of a text, unless
            the directory says so for embeddings.
        context: tokens of the longest sequence; None is what the network allows.
        vocabulary_size: of the tokenizer that will be used, if known.

    Raises:
        RecipeError: no such directory, another family, a task that the network cannot
            learn, sequences longer than it has positions for, a vocabulary larger than
            its table.
        CheckpointError: as the module says.
    """
    config = storage.read_config(folder)
    storage.require_safetensors(folder)
    network: Network
    if _is_ours(config):
        network = load_own(folder, config)
        _require_family(folder, network.family, objective, options)
        if objective is not None:
            network = for_task(network, objective.kind, labels, options)
    else:
        network = _load_stock(folder, objective, labels, options)
    if vocabulary_size is not None and vocabulary_size > network.vocabulary_size:
        raise RecipeError(
            f"the tokenizer has {vocabulary_size} entries and the network in {folder} only "
            f"{network.vocabulary_size}; use the tokenizer of that directory"
        )
    if context is not None:
        _require_positions(folder, network, context)
        network.context = context
    return network


def skeleton(
    folder: Path, objective: ObjectiveOptions, labels: tuple[str, ...], options: ModelOptions
) -> Network:
    """Make the network that `load_network` would read, with weights of no meaning.

    On torch's meta device this tells its shapes without its memory.

    Raises:
        RecipeError, CheckpointError: as `load_network`, of config.json alone.
    """
    values = storage.read_config(folder)
    if _is_ours(values):
        return for_task(own_skeleton(folder, values), objective.kind, labels, options)
    config = architectures.stock_config(folder)
    family = family_of(config)
    arrangement = _arrange(folder, config, family, objective, options)
    if labels:
        config.num_labels = len(labels)
    core = class_for(family, arrangement).from_config(config, trust_remote_code=False)
    return _network(family, core, arrangement, labels, _DEFAULT_CONTEXT)


def _load_stock(
    folder: Path,
    objective: ObjectiveOptions | None,
    labels: tuple[str, ...],
    options: ModelOptions | None,
) -> TransformerNetwork:
    config = architectures.stock_config(folder)
    family = family_of(config)
    _require_family(folder, family, objective, options)
    if options is not None and options.dropout > 0:
        for name in _DROPOUTS:
            if isinstance(getattr(config, name, None), float):
                setattr(config, name, options.dropout)
    arrangement = _arrange(folder, config, family, objective, options)
    stored: tuple[str, ...] = ()
    if arrangement.task in ("classification", "tagging"):
        stored = _labels_of(config)
        config.num_labels = len(labels or stored)
    core, new = _load_core(folder, config, class_for(family, arrangement), objective is not None)
    new_head = arrangement.pooling == "mean" or _head_is_new(core, new)
    if new_head and stored and not labels:
        raise RecipeError(f"{folder} has no output layer for {arrangement.task}; labels are needed")
    expected = None
    if config.model_type not in _BUILT_HERE and arrangement.pooling in ("none", "stock"):
        expected = _stock_logits(core, family)
    limit = architectures.positions(config)
    limit = limit or config_value(config, "n_positions", default=_DEFAULT_CONTEXT)
    network = _network(family, core, arrangement, labels or stored, limit)
    if expected is not None:
        _require_same(network, expected)
    if stored and not new_head:
        settle_labels(network, stored, labels or stored)
    return network


def _is_ours(config: dict[str, Any]) -> bool:
    return str(config.get("model_type")).startswith("casemate-")


def _require_family(
    folder: Path, family: str, objective: ObjectiveOptions | None, options: ModelOptions | None
) -> None:
    if options is not None and objective is not None and options.family != family:
        raise RecipeError(
            f"{folder} holds a network of the family {family!r}; set model.family to that "
            f"(it is {options.family!r})"
        )


def _require_positions(folder: Path, network: Network, context: int) -> None:
    if not isinstance(network, TransformerNetwork):
        return
    limit = architectures.positions(network.core.config)
    if limit is not None and context > limit:
        raise RecipeError(
            f"data.sequence_length is {context}, and the network in {folder} has {limit} positions"
        )


def _network(
    family: str,
    core: PreTrainedModel,
    arrangement: Arrangement,
    labels: tuple[str, ...],
    context: int,
) -> TransformerNetwork:
    if family == "decoder":
        return Decoder(core, arrangement, labels=labels, context=context)
    if family == "seq2seq":
        return Seq2Seq(core, context=context)
    return Encoder(core, arrangement, labels=labels, context=context)


def _arrange(
    folder: Path,
    config: PretrainedConfig,
    family: str,
    objective: ObjectiveOptions | None,
    options: ModelOptions | None,
) -> Arrangement:
    """Return how the network will be used."""
    pooling = "first" if options is None else options.pooling
    if objective is not None:
        kind = objective.kind
    else:
        kind = {
            "language": "masked",
            "classification": "classification",
            "tagging": "tagging",
            "embedding": "contrastive",
        }[stored_task(config)]
        # As saved, a classifier is what its stock class computes.
        pooling = "mean" if kind == "contrastive" else "first"
    if family != "encoder":
        if kind == "classification" and family == "decoder":
            return Arrangement("classification", "stock")
        return Arrangement("language", "none")
    if kind == "contrastive":
        pooling = _stored_pooling(folder) or pooling
    return arrange(kind, pooling)


def _stored_pooling(folder: Path) -> str | None:
    """Return what 1_Pooling/config.json says, or None without one."""
    path = folder / POOLING_FOLDER / storage.CONFIG_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        chosen = [k for k, on in values.items() if k.startswith("pooling_mode_") and on is True]
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no JSON object") from error
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise RecipeError(f"{path} pools by {', '.join(chosen) or 'nothing'}; known: mean, cls")
    return known[chosen[0]]


def _labels_of(config: PretrainedConfig) -> tuple[str, ...]:
    return tuple(str(config.id2label[index]) for index in sorted(config.id2label))


def _load_core(
    folder: Path, config: PretrainedConfig, stock: Any, new_allowed: bool
) -> tuple[PreTrainedModel, set[str]]:
    """Load a stock class; return it and the names of weights that are new."""
    try:
        with architectures.quiet():
            core, report = stock.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the weights in {folder} cannot be read: {first_line(error)}") from (
            error
        )
    inside = f"{core.base_model_prefix}." if core.base_model is not core else ""
    mismatched, missing = report["mismatched_keys"], report["missing_keys"]
    for name in sorted(mismatched):
        if name.startswith(inside) or not new_allowed:
            wanted = list(core.state_dict()[name].shape)
            raise CheckpointError(
                f"{name} in {folder} has another shape than config.json asks for, {wanted}"
            )
    for name in sorted(missing):
        # Poolers are left out of checkpoints whose task does not use them.
        if "pooler." not in name and (name.startswith(inside) or not new_allowed):
            raise CheckpointError(f"the weights in {folder} lack {name}")
    return core, {*missing, *mismatched}


def _head_is_new(core: PreTrainedModel, new: set[str]) -> bool:
    inside = f"{core.base_model_prefix}."
    return core.base_model is not core and any(not name.startswith(inside) for name in new)


@torch.no_grad()
def _stock_logits(core: PreTrainedModel, family: str) -> Tensor:
    core.eval()
    ids = torch.tensor([_PROBE])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if family == "seq2seq" else {})
    logits: Tensor = core(**inputs, return_dict=True).logits
    return logits


@torch.no_grad()
def _require_same(network: TransformerNetwork, expected: Tensor) -> None:
    """Check that the parts together compute what the stock class did."""
    network.eval()
    ids = torch.tensor([_PROBE])
    try:
        found = network({"input_ids": ids, "decoder_input_ids": ids})
        same = found.shape == expected.shape
        same = same and torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    except RuntimeError:
        same = False
    if not same:
        kind = network.core.config.model_type
        raise RecipeError(
            f"a {kind!r} network does more after its last layer than one matrix can; it cannot "
            "be trained in three parts"
        )
    network.train()
