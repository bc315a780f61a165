"""Networks from directories whose `model_type` is ours.

They are opened by their config.json and one model.safetensors, whose names and shapes
must be exactly those of the network. For a task other than the one they were saved for,
the features (and the layers of a recurrent network) go on and the output layer is new.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import nn

from trainer.errors import CheckpointError, RecipeError
from trainer.models import convolution, recurrent, storage, transformer
from trainer.models.architectures import class_for, family_of, first_line
from trainer.models.configuration import make_config, require_counts
from trainer.models.convolution import Convolution, ConvolutionConfig
from trainer.models.core import require_memory
from trainer.models.decoder import Decoder
from trainer.models.encoder import Encoder, arrange
from trainer.models.network import Network, config_value
from trainer.models.parts import add_task_layers
from trainer.models.recurrent import Recurrent, RecurrentConfig
from trainer.models.seq2seq import Seq2Seq
from trainer.models.transformer import Arrangement, Pooling, Task, TransformerNetwork
from trainer.models.weights import StoredWeights
from trainer.recipe.schema import ModelOptions

_MODEL_TYPES = (transformer.MODEL_TYPE, recurrent.MODEL_TYPE, convolution.MODEL_TYPE)
_MOST_ADDED = 64  # dense layers that finetunings may have added to one network
_LABELLED = ("classification", "tagging")


def load_own(stored: StoredWeights, config: dict[str, Any]) -> Network:
    """Read a directory of ours as it was saved.

    Raises:
        CheckpointError: a format from a later version, or files that do not fit together.
    """
    require_counts(config, stored, sides=False)
    with torch.device("meta"):
        shapes = own_skeleton(stored.folder, config)
    # Before anything is allocated: a few bytes may ask for any amount of memory.
    storage.require_exactly(shapes, stored.shapes, _rename(shapes), stored.folder)
    require_memory(shapes, stored.folder, copies=2)
    network = own_skeleton(stored.folder, config)
    with torch.no_grad():
        storage.load_exactly(network, stored.tensors(), _rename(network), stored.folder)
    return network


def _rename(network: Network) -> Callable[[str], str]:
    """Return what names weights as they are on disk."""
    return network.stored_name if isinstance(network, TransformerNetwork) else str


def own_skeleton(folder: Path, config: dict[str, Any]) -> Network:
    """Make the network that a config.json of ours describes, with weights of no meaning.

    Raises:
        CheckpointError: a format from a later version, or no such configuration.
    """
    if config["model_type"] not in _MODEL_TYPES:
        raise CheckpointError(
            f"{folder} has the model_type {config['model_type']!r}; those that are networks are "
            f"{', '.join(_MODEL_TYPES)}"
        )
    if config.get("format") != storage.FORMAT:
        raise CheckpointError(
            f"{folder} has format {config.get('format')!r} of {config['model_type']}; this "
            f"version reads {storage.FORMAT}"
        )
    try:
        return _as_saved(folder, config)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}/config.json is no configuration of {config['model_type']}: "
            f"{first_line(error)}"
        ) from error


def _as_saved(folder: Path, config: dict[str, Any]) -> Network:
    """Make the network that a config.json describes, with weights of no meaning."""
    named = config["id2label"]
    if not isinstance(named, dict):
        raise TypeError("id2label is no object")
    labels = tuple(str(named[str(index)]) for index in range(len(named)))
    network: Network
    kind = config["model_type"]
    if kind == recurrent.MODEL_TYPE:
        _one_of(config, "cell", recurrent.Cell)
        _one_of(config, "pooling", recurrent.Pooling)
        network = Recurrent(_values(RecurrentConfig, config), labels)
    elif kind == convolution.MODEL_TYPE:
        network = Convolution(_values(ConvolutionConfig, config), labels)
    else:
        stock = dict(config["base"])
        base = make_config(stock, folder)
        arrangement = Arrangement(
            _one_of(config, "task", Task), _one_of(config, "pooling", Pooling)
        )
        if family_of(base) != config["family"]:
            raise ValueError(f"family is {config['family']!r}, its base is {family_of(base)!r}")
        network = _transformer(config["family"], base, arrangement, labels)
    added = config["added_task_layers"]
    if not _is_of(added, int) or not 0 <= added <= _MOST_ADDED:
        raise ValueError(f"added_task_layers is {added!r}")
    add_task_layers(network, added)
    return network


def _one_of(config: dict[str, Any], key: str, choices: Any) -> Any:
    known = get_args(choices)
    if config[key] not in known:
        raise ValueError(f"{key} is {config[key]!r}; known: {', '.join(known)}")
    return config[key]


def _values(kind: Any, config: dict[str, Any]) -> Any:
    """Make a configuration of ours; JSON has lists where it has tuples."""
    values: dict[str, Any] = {}
    for name, wanted in get_type_hints(kind).items():
        value = config[name]
        value = tuple(value) if isinstance(value, list) else value
        if not _is_of(value, wanted):
            raise TypeError(f"{name} is {value!r}, and not {wanted}")
        values[name] = value
    return kind(**values)


def _is_of(value: Any, wanted: Any) -> bool:
    """Whether a JSON value has a type of a configuration's field."""
    if isinstance(wanted, UnionType):
        return any(_is_of(value, each) for each in get_args(wanted))
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_is_of(each, int) for each in value)
    if wanted is float:
        return type(value) in (int, float)
    return type(value) is wanted


def _transformer(
    family: str, base: Any, arrangement: Arrangement, labels: tuple[str, ...]
) -> TransformerNetwork:
    if labels:
        base.num_labels = len(labels)
    core = class_for(family, arrangement).from_config(base, trust_remote_code=False)
    context = config_value(base, "max_position_embeddings", "n_positions", default=512)
    if family == "decoder":
        return Decoder(core, arrangement, labels=labels, context=context)
    if family == "seq2seq":
        return Seq2Seq(core, context=context)
    return Encoder(core, arrangement, labels=labels, context=context)


# -- another task ---------------------------------------------------------------------


def for_task(
    network: Network, kind: str, labels: tuple[str, ...], options: ModelOptions | None
) -> Network:
    """Return a network as a task needs it: itself, or its features under a new output layer.

    Raises:
        RecipeError: a task with labels, and none are given or stored.
    """
    wanted = (labels or network.labels) if kind in _LABELLED else ()
    if kind in _LABELLED and not wanted:
        raise RecipeError(f"the network was saved without labels; {kind} needs them")
    pooling = "first" if options is None else options.pooling
    if isinstance(network, Recurrent):
        return _recurrent_for(network, wanted, pooling)
    if isinstance(network, TransformerNetwork):
        arrangement = network.arrangement
        if network.family == "encoder":
            arrangement = arrange(kind, pooling)
        elif network.family == "decoder":
            stock = Arrangement("classification", "stock")
            arrangement = stock if wanted else Arrangement("language", "none")
        if arrangement != network.arrangement:
            return _other_arrangement(network, arrangement, wanted)
    settle_labels(network, network.labels, wanted)
    return network


def _recurrent_for(network: Recurrent, labels: tuple[str, ...], pooling: str) -> Recurrent:
    if bool(labels) == bool(network.labels):
        settle_labels(network, network.labels, labels)
        return network
    chosen = ("mean" if pooling == "mean" else "last") if labels else "none"
    config = dataclasses.replace(
        network.config, pooling=chosen, cutoffs=None, tie_word_embeddings=False
    )
    other = Recurrent(config, labels)
    other.embedding.load_state_dict(network.embedding.state_dict())
    other.layers.load_state_dict(network.layers.state_dict())
    other.context = network.context
    return other


def _other_arrangement(
    network: TransformerNetwork, arrangement: Arrangement, labels: tuple[str, ...]
) -> TransformerNetwork:
    other = _transformer(network.family, network.core.config, arrangement, labels)
    report = other.base.load_state_dict(network.base.state_dict(), strict=False)
    lacking = [name for name in report.missing_keys if not name.startswith("pooler.")]
    if lacking:
        raise CheckpointError(f"the saved network lacks {lacking[0]}, which the new task needs")
    return other


@torch.no_grad()
def settle_labels(network: Network, stored: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Make the output layer fit the labels: keep it, reorder it, or start a new one."""
    network.labels = wanted
    unnamed = stored == tuple(f"LABEL_{index}" for index in range(len(wanted)))
    if stored == wanted or unnamed:
        return
    if sorted(stored) != sorted(wanted):
        network.replace_head()
        return
    head = network.output
    if not isinstance(head, nn.Linear):
        raise RecipeError("the output layer has no row for each label")
    order = [stored.index(label) for label in wanted]
    head.weight.copy_(head.weight[order])
    if head.bias is not None:
        head.bias.copy_(head.bias[order])
