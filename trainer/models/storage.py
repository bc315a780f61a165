"""Weights and configurations on disk: config.json and model.safetensors, nothing else.

Refused: pickled weights (`pytorch_model.bin`), whatever else is beside them; a state
that lacks a weight of the network or has one more; a config.json that is no object.

Invariants: a weight that several names share is written once, under the name that comes
first in the network; files hold what the state holds, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.errors import CheckpointError, RecipeError
from trainer.models.adapters import merged
from trainer.models.weights import CONFIG_FILE, WEIGHTS_FILE, read_object

_MAX_CONFIG_BYTES = 4 << 20
# Of directories with a model_type of ours.
FORMAT = 1
# What wrappers of layers put into names: activation checkpointing, torch.compile.
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


def plain_name(name: str) -> str:
    """Return a parameter's name without what wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def aliases(network: nn.Module) -> dict[str, str]:
    """Map every name of a shared parameter, but its first, to the first."""
    first: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), plain_name(name))
        if known != plain_name(name):
            others[plain_name(name)] = known
    return others


def complete_state(network: nn.Module, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the tensors to write: each weight once, under its first name, adapters merged.

    Args:
        network: says which names there are and which share a weight.
        state: the values; None takes the network's own.

    Raises:
        CheckpointError: `state` does not have exactly the network's weights.
    """
    own = {plain_name(name): value for name, value in network.state_dict().items()}
    others = aliases(network)
    wanted = [name for name in own if name not in others]
    given = own if state is None else {plain_name(name): value for name, value in state.items()}
    missing = sorted(set(wanted) - set(given))
    foreign = sorted(set(given) - set(own))
    if missing or foreign:
        raise CheckpointError(
            "the state to save is not this network's: "
            f"missing {_some(missing)}, not of the network {_some(foreign)}"
        )
    layers = {plain_name(name): layer for name, layer in network.named_modules()}
    return merged(layers, {name: given[name] for name in wanted})


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write model.safetensors; the metadata is what transformers looks for."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def write_json(path: Path, value: Any) -> None:
    """Write JSON as people read it, keys in the order given."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_own_config(
    folder: Path,
    model_type: str,
    values: Mapping[str, Any],
    *,
    labels: tuple[str, ...],
    added: int,
) -> None:
    """Write config.json of a network that transformers does not have.

    Its `model_type` is unknown to stock loaders, which refuse it for that.
    """
    name = "".join(word.capitalize() for word in model_type.split("-"))
    named = {str(index): label for index, label in enumerate(labels)}
    head = {"model_type": model_type, "format": FORMAT, "architectures": [name]}
    tail = {"added_task_layers": added, "id2label": named}
    write_json(folder / CONFIG_FILE, head | dict(values) | tail)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a model directory.

    Raises:
        RecipeError: there is no such directory.
        CheckpointError: it holds no config.json, or that is no JSON object.
    """
    if not folder.is_dir():
        raise RecipeError(
            f"{folder} is no directory; model.source names a Hugging Face directory on this "
            "machine (nothing is downloaded)"
        )
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}: it is no model directory")
    return read_object(path, _MAX_CONFIG_BYTES)


def require_exactly(
    network: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    rename: Callable[[str], str],
    folder: Path,
) -> dict[str, str]:
    """Check that a directory of ours holds a network's weights and no other.

    Args:
        network: on any device, the meta device too.
        shapes: of the tensors stored, under the names of the file.
        rename: from a name of the network to the one in the file.
        folder: the directory, for messages.

    Returns:
        Names of the network by the names in the file.

    Raises:
        CheckpointError: a weight is missing, too many, or of another shape.
    """
    others = aliases(network)
    own = {name: value for name, value in network.state_dict().items() if name not in others}
    names = {rename(name): name for name in own}
    path = folder / WEIGHTS_FILE
    missing, foreign = sorted(set(names) - set(shapes)), sorted(set(shapes) - set(names))
    if missing or foreign:
        raise CheckpointError(
            f"{path} does not fit its {CONFIG_FILE}: missing {_some(missing)}, "
            f"unknown {_some(foreign)}"
        )
    for stored, name in names.items():
        if tuple(own[name].shape) != shapes[stored]:
            raise CheckpointError(
                f"{path}: {stored} is {list(shapes[stored])}, and {CONFIG_FILE} asks for "
                f"{list(own[name].shape)}"
            )
    return names


def load_exactly(
    network: nn.Module, tensors: Mapping[str, Tensor], rename: Callable[[str], str], folder: Path
) -> None:
    """Copy tensors read from a directory of ours into a network.

    Raises:
        CheckpointError: as `require_exactly`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    names = require_exactly(network, shapes, rename, folder)
    own = network.state_dict()
    for stored, name in names.items():
        own[name].copy_(tensors[stored])


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
