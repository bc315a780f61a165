"""Networks from directories on disk: Hugging Face's, and those that we wrote.

What is refused, before any weight is used: a directory without config.json, weights
that are pickled or lie elsewhere, an architecture that the installed transformers does
not know (code from the directory is never run), weights of other shapes than the
configuration says, missing ones other than those of an output layer that is new anyway,
and stored ones that the configuration has no place for.

transformers is given values and tensors, never the directory: what it would follow out
of there (links, indices, adapters, code) it does not see.

    1. Read config.json; a `model_type` of ours goes to `own`.
    2. Find the family and how the objective uses it.
    3. Load the stock class, float32, from safetensors.
    4. Take it apart; check on a few tokens that the parts together compute what the
       stock class does.
    5. Settle the labels: keep the output layer, reorder it, or start a new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from trainer.checkpointing.record import RECORD_NAME
from trainer.errors import RecipeError
from trainer.models import architectures, storage
from trainer.models.architectures import class_for, family_of, stored_task
from trainer.models.configuration import require_counts
from trainer.models.core import load_core
from trainer.models.decoder import Decoder
from trainer.models.documents import measure_documents
from trainer.models.encoder import POOLING_FOLDER, Encoder, arrange
from trainer.models.network import Network, config_value
from trainer.models.own import for_task, load_own, own_skeleton, settle_labels
from trainer.models.seq2seq import Seq2Seq, first_target_token, require_unforced
from trainer.models.transformer import Arrangement, TransformerNetwork
from trainer.models.weights import CONFIG_FILE, Origin, StoredWeights, read_object, sha256_regular
from trainer.recipe.schema import ModelOptions, ObjectiveOptions

_PROBE_TOKENS = 4
_MAX_POOLING_BYTES = 1 << 16
GENERATION_FILE = "generation_config.json"
_MAX_GENERATION_BYTES = 1 << 20
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
        options: `family` must be the directory's; `dropout` from 0 on replaces
            the directory's; `pooling` says how an encoder makes one vector of a text, unless
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
    with architectures.refusing(folder):
        stored = StoredWeights.open(folder)
        with stored.unchanged():
            network = _load(stored, config, objective, labels, options)
            measure_documents(network)
            record = folder / RECORD_NAME
            network.origin = Origin(
                stored.digest(), sha256_regular(record) if record.exists() else None
            )
    if vocabulary_size is not None and vocabulary_size > network.vocabulary_size:
        raise RecipeError(
            f"the tokenizer has {vocabulary_size} entries and the network in {folder} only "
            f"{network.vocabulary_size}; use the tokenizer of that directory"
        )
    if context is not None:
        _require_positions(folder, network, context)
        network.context = context
    return network


def _load(
    stored: StoredWeights,
    config: dict[str, Any],
    objective: ObjectiveOptions | None,
    labels: tuple[str, ...],
    options: ModelOptions | None,
) -> Network:
    if not _is_ours(config):
        return _load_stock(stored, config, objective, labels, options)
    network = load_own(stored, config)
    _require_family(stored.folder, network.family, objective, options)
    if objective is None:
        return network
    return for_task(network, objective.kind, labels, options)


def skeleton(
    folder: Path, objective: ObjectiveOptions, labels: tuple[str, ...], options: ModelOptions
) -> Network:
    """Make the network that `load_network` would read, with weights of no meaning.

    On torch's meta device this tells its shapes without its memory.

    Raises:
        RecipeError, CheckpointError: as `load_network`, of config.json and the headers
            of the weights.
    """
    values = storage.read_config(folder)
    with architectures.refusing(folder):
        stored = StoredWeights.open(folder)
        require_counts(values, stored, sides=not _is_ours(values))
        if _is_ours(values):
            return for_task(own_skeleton(folder, values), objective.kind, labels, options)
        config = architectures.stock_config(folder, values)
        family = family_of(config)
        arrangement = _arrange(folder, config, family, objective, options)
        if labels:
            config.num_labels = len(labels)
        core = class_for(family, arrangement).from_config(config, trust_remote_code=False)
        return _network(family, core, arrangement, labels, _DEFAULT_CONTEXT)


def _load_stock(
    source: StoredWeights,
    values: dict[str, Any],
    objective: ObjectiveOptions | None,
    labels: tuple[str, ...],
    options: ModelOptions | None,
) -> TransformerNetwork:
    folder = source.folder
    require_counts(values, source)
    config = architectures.stock_config(folder, values)
    family = family_of(config)
    _require_family(folder, family, objective, options)
    if options is not None and options.dropout >= 0:
        for name in _DROPOUTS:
            if isinstance(getattr(config, name, None), float):
                setattr(config, name, options.dropout)
    arrangement = _arrange(folder, config, family, objective, options)
    stored: tuple[str, ...] = ()
    if arrangement.task in ("classification", "tagging"):
        stored = _labels_of(config)
        config.num_labels = len(labels or stored)
    if family == "seq2seq":
        _require_first_tokens(folder, config)
    stock = class_for(family, arrangement)
    with architectures.quiet():
        core, new = load_core(source, config, stock, new_allowed=objective is not None)
    new_head = arrangement.pooling == "mean" or _head_is_new(core, new)
    if new_head and stored and not labels:
        raise RecipeError(f"{folder} has no output layer for {arrangement.task}; labels are needed")
    expected = None
    if arrangement.pooling in ("none", "stock"):
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
    path = folder / POOLING_FOLDER / CONFIG_FILE
    if not path.is_file():
        return None
    values = read_object(path, _MAX_POOLING_BYTES)
    chosen = [k for k, on in values.items() if k.startswith("pooling_mode_") and on is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise RecipeError(f"{path} pools by {', '.join(chosen) or 'nothing'}; known: mean, cls")
    return known[chosen[0]]


def _require_first_tokens(folder: Path, config: PretrainedConfig) -> None:
    """Refuse a first target token that is forced, wherever the directory says so."""
    first_target_token(config)
    path = folder / GENERATION_FILE
    if path.exists():
        values = read_object(path, _MAX_GENERATION_BYTES)
        require_unforced(values.get("forced_bos_token_id"), config)


def _labels_of(config: PretrainedConfig) -> tuple[str, ...]:
    return tuple(str(config.id2label[index]) for index in sorted(config.id2label))


def _head_is_new(core: PreTrainedModel, new: set[str]) -> bool:
    inside = f"{core.base_model_prefix}."
    return core.base_model is not core and any(not name.startswith(inside) for name in new)


@torch.no_grad()
def _stock_logits(core: PreTrainedModel, family: str) -> Tensor:
    core.eval()
    ids = _probe(core.config)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if family == "seq2seq" else {})
    logits: Tensor = core(**inputs, return_dict=True).logits
    return logits


def _probe(config: PretrainedConfig) -> Tensor:
    """Return a few tokens, i64[1, T], none of them padding where there is a choice."""
    ordinary = [i for i in range(min(config.vocab_size, 16)) if i != config.pad_token_id]
    return torch.tensor([ordinary[-_PROBE_TOKENS:]])


@torch.no_grad()
def _require_same(network: TransformerNetwork, expected: Tensor) -> None:
    """Check that the parts together compute what the stock class did."""
    network.eval()
    ids = _probe(network.core.config)
    try:
        found = network({"input_ids": ids, "decoder_input_ids": ids})
        same = found.shape == expected.shape
        same = same and torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    except RuntimeError:
        same = False
    if not same:
        kind = network.core.config.model_type
        raise RecipeError(
            f"a {kind!r} network does more after its last layer than one matrix can; it cannot "
            "be trained in three parts"
        )
    network.train()
