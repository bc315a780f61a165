"""A rank of two: sums of clipped gradients over the ranks are those of one rank.

Run by test_ranks.py with the variables that a launcher sets. It ends with an error, and
so with another exit code than 0, if any sum differs.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from tests.trainer.models.networks import make
from tests.trainer.privacy.naive import distance, labelled_batch, make_step, objective_step
from trainer.data.batch import Batch
from trainer.distribution.environment import resolve
from trainer.distribution.group import Group, connect
from trainer.distribution.wrap import distribute
from trainer.loop.step import Step
from trainer.models.parts import apply_parts
from trainer.privacy.clipping import Clipping
from trainer.privacy.gradients import PerExampleGradients
from trainer.recipe.schema import PartsOptions

CLIPPING = Clipping("flat", 0.5)
KINDS = ("encoder-classifier", "decoder-untied", "seq2seq-untied", "lstm")
# The last row fills up: a rank may have fewer examples than another.
WEIGHTS = (torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0]))


def _step(kind: str, adapter: str) -> Step:
    if adapter == "none":
        return make_step(kind)
    network = apply_parts(make(kind), PartsOptions(adapter=adapter, lora_rank=3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return objective_step(kind, network)


def _batches(kind: str) -> list[Batch]:
    """Return one for each rank, of different lengths."""
    batch = labelled_batch(kind)
    other = {name: values.flip(0) for name, values in batch.items()}
    if kind == "encoder-classifier":
        other = {name: v[:, :6] if v.dim() == 2 else v for name, v in other.items()}
    return [batch, other]


def _check(group: Group, kind: str, adapter: str, strategy: str) -> None:
    batches = _batches(kind)
    alone = _step(kind, adapter)
    expected = PerExampleGradients(alone, alone.network, CLIPPING)
    for batch, weights in zip(batches, WEIGHTS, strict=True):
        expected.accumulate(batch, weights)
    exact = expected.take()
    step = _step(kind, adapter)
    # Copies need no wrapper: the sums are what ranks share, and those are added up here.
    if strategy == "fsdp":
        distribute(step, step.network, strategy=strategy, dtype="float32", group=group)
    computed = PerExampleGradients(step, step.network, CLIPPING)
    for _ in range(2):  # the second time, FSDP's lazy state is there already
        computed.accumulate(batches[group.rank], WEIGHTS[group.rank])
        found: dict[str, Tensor] = {n: group.sum_(g) for n, g in computed.take().items()}
        apart = distance(found, exact)
        if not apart <= 1e-6:
            raise RuntimeError(f"{kind}, {adapter}, {strategy}: sums are off by {apart}")
    if any(parameter.grad is not None for parameter in step.parameters()):
        raise RuntimeError(f"{kind}, {adapter}, {strategy}: ordinary gradients were computed")


def main() -> None:
    """Check every kind of network under both strategies."""
    torch.set_num_threads(1)
    with connect(resolve(os.environ), torch.device("cpu"), 60) as group:
        for strategy in ("ddp", "fsdp"):
            for kind in KINDS:
                _check(group, kind, "none", strategy)
            _check(group, "encoder-classifier", "lora", strategy)


if __name__ == "__main__":
    main()
