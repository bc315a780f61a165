"""Loads a stock class of transformers from weights that were looked at before.

    1. Make the class on the meta device: shapes, and which names share a weight.
    2. Compare with the headers of the stored weights; nothing is allocated yet.
    3. Read the tensors and hand them over, by name.

What is refused: a weight of another shape, a missing one (but of an output layer that is
new anyway, and of poolers, which are left out where a task does not use them), a stored
weight of the base model that the configuration has no place for (it would be dropped
without a word), and different values for names that share one weight.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from trainer.errors import CheckpointError, MemoryEstimateError
from trainer.models.available import available_memory
from trainer.models.weights import CONFIG_FILE, StoredWeights

_FLOAT = 4  # bytes
_POOLER = "pooler."
# Old names of norms, which transformers changes while it loads.
_OLD_ENDINGS = ((".weight", ".gamma"), (".bias", ".beta"))


def load_core(
    stored: StoredWeights, config: PretrainedConfig, stock: Any, *, new_allowed: bool
) -> tuple[PreTrainedModel, set[str]]:
    """Load a stock class in float32.

    Args:
        stored: the weights.
        config: cleaned, with the number of labels that is wanted.
        stock: an automatic class of transformers.
        new_allowed: whether weights outside the base model may be missing.

    Returns:
        The model, and the names of weights that are new.

    Raises:
        CheckpointError: as the module says.
        MemoryEstimateError: it does not fit the memory of this machine.
    """
    with torch.device("meta"):
        shapes: PreTrainedModel = stock.from_config(copy.deepcopy(config), trust_remote_code=False)
    names = _Names(shapes, stored)
    names.require_fit(new_allowed=new_allowed)
    require_memory(shapes, stored.folder)
    tensors = stored.tensors()
    names.share(tensors)
    try:
        core, report = type(shapes).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"the weights in {stored.folder} cannot be read: {lines[0]}"
        ) from error
    names.require_used(report["unexpected_keys"])
    return core, {*report["missing_keys"], *report["mismatched_keys"]}


def require_memory(shapes: nn.Module, where: object, *, copies: int = 1) -> None:
    """Check that a network on the meta device would fit this machine's memory.

    Args:
        shapes: the network.
        where: its directory, for messages.
        copies: how often the weights are there while they are loaded.

    Raises:
        MemoryEstimateError: with both figures.
    """
    needed = copies * sum(_FLOAT * p.numel() for p in shapes.parameters())
    needed += sum(b.numel() * b.element_size() for b in shapes.buffers())
    there = available_memory(torch.device("cpu"))
    if needed > there:
        raise MemoryEstimateError(
            f"the network in {where} needs about {needed / 2**30:.2f} GiB to be loaded, and "
            f"{there / 2**30:.2f} GiB are free; take a smaller one, or a larger machine"
        )


class _Names:
    """Which stored tensor belongs to which weight.

    A directory may hold the base model alone, and the class more, or the other way round.
    """

    def __init__(self, shapes: PreTrainedModel, stored: StoredWeights) -> None:
        self._shapes = shapes
        self._stored = stored
        self._where = stored.folder
        prefix = f"{shapes.base_model_prefix}." if shapes.base_model_prefix else ""
        # What the names of the base model begin with, here and in the files.
        self._inside = prefix if shapes.base_model is not shapes else ""
        whole = bool(prefix) and any(name.startswith(prefix) for name in stored.shapes)
        self._stored_inside = prefix if whole else ""

    def require_fit(self, *, new_allowed: bool) -> None:
        """Compare shapes, before anything is read."""
        for name, others, parameter in self._weights():
            found = next((n for each in others for n in self._candidates(each)), None)
            needed = name.startswith(self._inside) or not new_allowed
            if found is None:
                if needed and _POOLER not in name:
                    raise CheckpointError(f"the weights in {self._where} lack {name}")
            elif self._stored.shapes[found] != tuple(parameter.shape) and needed:
                raise CheckpointError(
                    f"{name} in {self._where} has another shape than {CONFIG_FILE} asks for, "
                    f"{list(parameter.shape)}"
                )

    def share(self, tensors: dict[str, Tensor]) -> None:
        """Give a shared weight under each of its names; refuse it with different values."""
        for _, others, _ in self._weights():
            stored = [n for each in others for n in self._candidates(each)]
            for name in stored[1:]:
                if not torch.equal(tensors[name], tensors[stored[0]]):
                    raise CheckpointError(
                        f"{self._where} stores {stored[0]} and {name} with different values, and "
                        f"{CONFIG_FILE} makes them one; set tie_word_embeddings to false there, "
                        "or remove the one that is not meant"
                    )
            if stored and len(others) > 1:
                for each in others:
                    tensors.setdefault(self._spelled(each), tensors[stored[0]])

    def require_used(self, unexpected: list[str]) -> None:
        """Refuse stored weights of the base model that found no place."""
        for name in sorted(unexpected):
            inside = name.startswith(self._inside)
            if not self._inside and self._stored_inside:
                inside = f"{self._stored_inside}{name}" in self._stored.shapes
            if inside and _POOLER not in name:
                raise CheckpointError(
                    f"{self._where} stores {name[:200]!a}, and {CONFIG_FILE} has no place for it: "
                    "the files are not of one model, or a count of layers is too low"
                )

    def _weights(self) -> Iterator[tuple[str, list[str], Tensor]]:
        """Yield each weight of the class: its first name, all its names, and itself."""
        names: dict[int, list[str]] = {}
        weights: dict[int, Tensor] = {}
        for name, parameter in self._shapes.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
            weights[id(parameter)] = parameter
        for key, all_names in names.items():
            yield all_names[0], all_names, weights[key]

    def _spelled(self, name: str) -> str:
        """Return a name of the class as the files spell it."""
        if self._inside and not self._stored_inside:
            return name.removeprefix(self._inside)
        if self._stored_inside and not self._inside:
            return f"{self._stored_inside}{name}"
        return name

    def _candidates(self, name: str) -> list[str]:
        """Return the stored names of a weight's name, none or one."""
        spelled = self._spelled(name)
        possible = [spelled]
        possible += [
            spelled.removesuffix(new) + old for new, old in _OLD_ENDINGS if spelled.endswith(new)
        ]
        return [each for each in possible if each in self._stored.shapes][:1]
