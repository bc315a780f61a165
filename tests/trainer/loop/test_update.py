"""One update: the same whatever the micro-batches, and never of a number that is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.data.batch import Batch, Item
from trainer.data.loader import Loader
from trainer.distribution.environment import Ranks
from trainer.distribution.group import connect
from trainer.errors import DivergenceError
from trainer.loop.step import StepLoss
from trainer.loop.update import Updater, UpdateResult
from trainer.optimization.optimizers import Optimizers
from trainer.recipe.schema import OptimizerOptions

_OPTIONS = OptimizerOptions(warmup_steps=0, clip_norm=0.0, schedule="constant")


class Numbers:
    """Items x and y = 3x; item `broken` holds a NaN."""

    fingerprint = "0" * 64

    def __init__(self, broken: int | None = None) -> None:
        self._broken = broken

    def __len__(self) -> int:
        return 8

    def item(self, epoch: int, index: int) -> Item:
        del epoch
        value = np.nan if index == self._broken else float(index)
        return {"x": np.array([value], dtype=np.float32)}

    def where(self, epoch: int, index: int) -> str:
        del epoch
        return f"numbers.txt:{index}"

    def collate(self, items: Sequence[Item]) -> Batch:
        return {"x": torch.tensor(np.stack([item["x"] for item in items]))}


class Line(nn.Module):
    """Fits y = w x; the loss is a sum, as every objective's is. A cusp has no gradient at 0."""

    def __init__(self, cusp: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self._cusp = cusp

    def forward(self, batch: Batch) -> StepLoss:
        x = batch["x"]
        total: Tensor = ((x @ self.weight - 3 * x) ** 2).sum()
        if self._cusp:
            total = total + self.weight.abs().sqrt().sum()
        count = torch.tensor(len(x))
        return StepLoss(total, total.detach(), count, torch.full_like(count, -1))


def update_once(
    micro: int,
    *,
    broken: int | None = None,
    options: OptimizerOptions = _OPTIONS,
    cusp: bool = False,
) -> tuple[Line, UpdateResult | DivergenceError]:
    line = Line(cusp)
    optimizers = Optimizers([torch.optim.SGD(line.parameters(), lr=0.01)])
    with (
        connect(Ranks(), torch.device("cpu"), 15.0) as group,
        Loader(Numbers(broken), sequences=8, micro_sequences=micro, seed=1) as loader,
    ):
        updater = Updater(
            line, optimizers, loader, group, options, steps=1, seed=1, autocast=nullcontext
        )
        try:
            return line, updater.update(0)
        except DivergenceError as problem:
            return line, problem


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_micro_batches_add_up_to_the_mean_over_the_batch(micro: int) -> None:
    line, result = update_once(micro)
    assert isinstance(result, UpdateResult)
    squares = sum(index**2 for index in range(8)) / 8
    assert result.loss == pytest.approx(9 * squares)
    assert result.gradient_norm == pytest.approx(6 * squares)
    assert line.weight.item() == pytest.approx(0.01 * 6 * squares)


def test_clipping_bounds_the_update_and_reports_the_norm_before() -> None:
    line, result = update_once(4, options=dataclasses.replace(_OPTIONS, clip_norm=1.0))
    assert isinstance(result, UpdateResult)
    assert result.gradient_norm == pytest.approx(6 * 17.5)
    assert line.weight.item() == pytest.approx(0.01, rel=1e-4)


def test_a_loss_that_is_no_number_stops_before_the_weights_move_and_names_the_batch() -> None:
    line, problem = update_once(2, broken=5)
    assert isinstance(problem, DivergenceError)
    assert "numbers.txt:5" in str(problem)
    assert "micro-batch" in str(problem)
    assert line.weight.item() == 0


def test_a_gradient_that_is_no_number_stops_before_the_weights_move() -> None:
    line, problem = update_once(8, cusp=True)
    assert isinstance(problem, DivergenceError)
    assert "gradient" in str(problem)
    assert line.weight.item() == 0
