"""What a checkpoint holds of a module and its optimizers: tensors by name.

    model.<name of the parameter or buffer>
    optimizer.<name of the parameter>.<name of the state>

Names are those of the bare module (`clean_name`), never positions, so that it does not
matter how many ranks there were, or whether they held copies or shards. A matrix with
several names is kept under its first. Learning rates and the like are not kept: they
follow from the recipe, which is checked to be the same, and from the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from trainer.distribution.wrap import clean_name
from trainer.errors import CheckpointError

MODEL: Final = "model."
OPTIMIZER: Final = "optimizer."


def model_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers themselves (not copies), each once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name} of the module is no tensor and cannot be kept")
        if id(value) not in seen:
            seen.add(id(value))
            found[MODEL + clean_name(name)] = value.detach()
    return found


def optimizer_tensors(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the optimizers' tensors by full name, and what is no tensor by parameter."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter, optimizer in _moved(module, optimizers):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{name}.{key}"] = value.detach()
            elif value is None or isinstance(value, bool | int | float | str):
                values.setdefault(name, {})[key] = value
            else:
                raise CheckpointError(
                    f"the optimizer's {key} of {name} is a {type(value).__name__}, which "
                    "cannot be kept"
                )
    return tensors, values


def optimizer_targets(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], saved: Metadata
) -> dict[str, Tensor]:
    """Return empty tensors for the saved optimizer state, sharded as the parameters are.

    Raises:
        CheckpointError: state was saved for a parameter that is not moved here.
    """
    parameters = {name: parameter for name, parameter, _ in _moved(module, optimizers)}
    targets: dict[str, Tensor] = {}
    for full_name, entry in saved.state_dict_metadata.items():
        if not full_name.startswith(OPTIMIZER) or not isinstance(entry, TensorStorageMetadata):
            continue
        name = full_name.removeprefix(OPTIMIZER).rpartition(".")[0]
        parameter = parameters.get(name)
        if parameter is None:
            raise CheckpointError(
                f"the checkpoint holds optimizer state of {name}, which this run does not "
                "train: freeze the same parts as when it was saved"
            )
        # The state of a scalar parameter has its shape too; copying is right either way.
        if entry.size == parameter.shape:
            targets[full_name] = torch.empty_like(parameter, dtype=entry.properties.dtype).detach()
        else:
            targets[full_name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    return targets


def load_optimizers(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Give the optimizers the state that was saved; options of their groups stay."""
    by_name: dict[str, dict[str, Any]] = {name: dict(kept) for name, kept in values.items()}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.removeprefix(OPTIMIZER).rpartition(".")
        by_name.setdefault(name, {})[key] = tensor
    names = _names(module)
    for optimizer in optimizers:
        # torch numbers parameters by their place in the groups.
        placed = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            place: by_name[names[id(parameter)]]
            for place, parameter in enumerate(placed)
            if names[id(parameter)] in by_name
        }
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def check_model(tensors: Mapping[str, Tensor], saved: Metadata) -> None:
    """Require that the checkpoint has exactly these weights, in these shapes.

    Raises:
        CheckpointError: naming the first that differs.
    """
    kept = {
        name: entry
        for name, entry in saved.state_dict_metadata.items()
        if name.startswith(MODEL) and isinstance(entry, TensorStorageMetadata)
    }
    for name in sorted(tensors.keys() ^ kept.keys()):
        where = "the checkpoint" if name in kept else "this network"
        raise CheckpointError(f"only {where} has {name.removeprefix(MODEL)}: another network")
    for name, tensor in tensors.items():
        if tensor.shape != kept[name].size:
            raise CheckpointError(
                f"{name.removeprefix(MODEL)} is {tuple(kept[name].size)} in the checkpoint and "
                f"{tuple(tensor.shape)} here: another network"
            )


class Staging:
    """Copies of tensors in CPU memory, so that training may go on while they are written.

    The memory is kept and used again: one more copy of weights and optimizer state, page
    locked where it comes from a GPU.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def stage(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies as of now; those of an earlier call are overwritten."""
        staged: dict[str, Tensor] = {}
        on_gpu = False
        for name, tensor in tensors.items():
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            copy = self._copies.get(name)
            if copy is None or copy.shape != local.shape or copy.dtype != local.dtype:
                copy = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
                self._copies[name] = copy
            copy.copy_(local, non_blocking=local.is_cuda)
            on_gpu = on_gpu or local.is_cuda
            staged[name] = _like(tensor, copy)
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return staged


def _like(tensor: Tensor, local: Tensor) -> Tensor:
    """Return `local` as the same part of a whole that `tensor` is."""
    if not isinstance(tensor, DTensor):
        return local
    # Not DTensor.from_local: it would move the copy back to the mesh's device.
    return DTensor(local, tensor._spec, requires_grad=False)  # type: ignore[no-untyped-call]


def _moved(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> list[tuple[str, Tensor, torch.optim.Optimizer]]:
    names = _names(module)
    moved: list[tuple[str, Tensor, torch.optim.Optimizer]] = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in names:
                    raise CheckpointError(
                        "an optimizer moves a parameter that the module does not have; build "
                        "it after the module was distributed"
                    )
                moved.append((names[id(parameter)], parameter, optimizer))
    return moved


def _names(module: nn.Module) -> dict[int, str]:
    return {id(value): clean_name(name) for name, value in module.named_parameters()}
