"""A rank of two: its objectives' gradients, summed over ranks, are those of one rank.

Run by test_ranks.py with the variables that a launcher sets. It ends with an error, and
so with another exit code than 0, if any gradient differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.trainer.objectives.tiny import Tiny
from trainer.data.batch import Batch
from trainer.distribution.environment import resolve
from trainer.distribution.group import Group, connect
from trainer.distribution.wrap import clean_name, distribute
from trainer.loop.step import Step
from trainer.objectives.adaptive import AdaptiveOutput
from trainer.objectives.build import build_objective
from trainer.recipe.schema import ObjectiveOptions

VOCABULARY = 1100
WIDTH = 8


def _tied() -> Tiny:
    return Tiny(VOCABULARY, WIDTH, nn.Linear(WIDTH, VOCABULARY)).tie()


def _untied() -> Tiny:
    return Tiny(VOCABULARY, WIDTH, nn.Linear(WIDTH, VOCABULARY, bias=False))


def _adaptive() -> Tiny:
    return Tiny(VOCABULARY, WIDTH, AdaptiveOutput(WIDTH, VOCABULARY, (20, 100)))


CASES: dict[str, tuple[Callable[[], Tiny], ObjectiveOptions]] = {
    "tied": (_tied, ObjectiveOptions(chunk_tokens=16, label_smoothing=0.1)),
    "untied, masked": (_untied, ObjectiveOptions(kind="masked", chunk_tokens=16)),
    "full": (_tied, ObjectiveOptions(softmax="full")),
    "adaptive": (_adaptive, ObjectiveOptions(softmax="adaptive")),
}


def _micro_batches() -> list[Batch]:
    """Return one for each rank: many targets that are all frequent, and few that are all rare."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for low, high, length in ((0, 20, 9), (100, VOCABULARY, 4)):
        ids = torch.randint(VOCABULARY, (3, length), generator=generator)
        labels = torch.randint(low, high, (3, length), generator=generator)
        labels[0, : length // 2] = -100
        batches.append({"input_ids": ids, "labels": labels})
    return batches


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is None:
            raise RuntimeError(f"{name} has no gradient")
        found[clean_name(name)] = (
            gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        )
    return found


def _check(group: Group, case: str, strategy: str) -> None:
    make, options = CASES[case]
    batches = _micro_batches()
    torch.manual_seed(0)
    alone = make()
    expected = Step(alone, build_objective(options, alone))
    for batch in batches:
        expected(batch).total.backward()
    torch.manual_seed(0)
    network = make()
    module = Step(network, build_objective(options, network))
    wrapped = distribute(module, network, strategy=strategy, dtype="float32", group=group)
    wrapped(batches[group.rank]).total.backward()
    exact = _gradients(expected)
    for name, gradient in _gradients(wrapped).items():
        difference = (gradient - exact[name]).abs().max().item()
        if difference > 1e-5 * max(1.0, exact[name].abs().max().item()):
            raise RuntimeError(f"{case}, {strategy}: the gradient of {name} is off by {difference}")


def main() -> None:
    """Check every case under both strategies."""
    torch.set_num_threads(1)
    with connect(resolve(os.environ), torch.device("cpu"), 60) as group:
        for strategy in ("ddp", "fsdp"):
            for case in CASES:
                _check(group, case, strategy)


if __name__ == "__main__":
    main()
