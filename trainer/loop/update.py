"""One update of the weights, from micro-batches to the optimizer's step.

The gradient is that of the mean loss over the targets of the global batch, whatever
the number of ranks and micro-batches: every micro-batch contributes the gradient of a
sum, and one division by the global number of targets makes the mean.

Invariant: an update with a loss or gradient that is no number is never applied. It is
refused on every rank alike, since all of them judge the same all-reduced figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainer.data.loader import Loader, MicroBatch
from trainer.distribution.gradients import (
    accumulate,
    clip_factor,
    gradient_norm,
    scale_gradients,
)
from trainer.distribution.group import Group
from trainer.errors import DivergenceError
from trainer.loop.batches import Autocast, count_tokens, to_device
from trainer.loop.interrupts import StopReason, stop_reason, stop_wish
from trainer.loop.randomness import seed_micro_batch
from trainer.loop.step import StepLoss
from trainer.optimization.optimizers import Optimizers
from trainer.optimization.schedule import learning_rate_factor
from trainer.recipe.schema import OptimizerOptions

# Figures that all ranks add up: plain, targets, right ones, tokens, two wishes to stop. The
# totals of the micro-batches follow, each in a place of its own.
_FIGURES = 6


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Figures of one update, over all ranks.

    Attributes:
        loss: mean of what is minimized, label smoothing included (nats per target).
        plain: mean negative log-likelihood (nats per target).
        accuracy: share of targets predicted right; None where that was not counted.
        tokens: tokens that were read, padding left out.
        learning_rate: that was used.
        gradient_norm: global norm before clipping.
        stop: "asked" if any rank was asked to stop, "time" if the run's time is over, else "".
            The same on every rank: what follows is collective.
    """

    loss: float
    plain: float
    accuracy: float | None
    tokens: int
    learning_rate: float
    gradient_norm: float
    stop: StopReason


class Updater:
    """Makes updates.

    Args:
        module: a `Step`, as `distribute` returned it.
        optimizers: over its parameters.
        loader: the training micro-batches of this rank.
        group: the ranks.
        options: clipping and schedule.
        steps: of the whole run, which the schedule ends with.
        seed: the recipe's.
        autocast: makes the context of a forward pass (mixed precision).
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Optimizers,
        loader: Loader,
        group: Group,
        options: OptimizerOptions,
        *,
        steps: int,
        seed: int,
        autocast: Autocast,
    ) -> None:
        self._module = module
        self._optimizers = optimizers
        self._loader = loader
        self._group = group
        self._options = options
        self._steps = steps
        self._seed = seed
        self._autocast = autocast
        self._mine = loader.micro_batches // group.world

    def update(self, step: int, *, wants_stop: StopReason = "") -> UpdateResult:
        """Make the update number `step` (0 is the first).

        Args:
            step: updates made before.
            wants_stop: why this rank wants to stop after this update; all ranks learn of it.

        Raises:
            DivergenceError: loss or gradient is no number; the weights are untouched.
            DataError: an item of the batch could not be read.
        """
        self._module.train()
        self._optimizers.zero_grad()
        # float64 holds sums of a step's losses and counts exactly enough on every device.
        figures = torch.zeros(
            _FIGURES + self._loader.micro_batches, dtype=torch.float64, device=self._group.device
        )
        seen: list[MicroBatch] = []
        for number, micro in enumerate(self._loader.step(step), start=1):
            seen.append(micro)
            with accumulate(self._module, last=number == self._mine):
                loss = self._forward_backward(step, micro)
            counted = (loss.plain, loss.targets, loss.correct)
            figures[:3] += torch.stack([each.double() for each in counted])
            figures[_FIGURES + micro.index] = loss.total.detach()
        figures[3] = sum(count_tokens(micro.batch) for micro in seen)
        # One by one: a tensor made of both would wait for the GPU.
        figures[4], figures[5] = stop_wish(wants_stop)
        self._group.sum_(figures)
        parameters = list(self._optimizers.parameters())
        figures = torch.cat([gradient_norm(parameters).to(figures).view(1), figures])
        # The one place where a step waits for its GPU.
        norm, plain, targets, right, tokens, asked, late, *totals = figures.tolist()
        divisor = max(targets, 1.0)
        # The gradient is that of the sum so far.
        norm /= divisor
        self._check(step, norm, totals, seen)
        scale_gradients(parameters, clip_factor(norm, self._options.clip_norm) / divisor)
        self._optimizers.set_factor(learning_rate_factor(step, self._options, self._steps))
        self._optimizers.step()
        return UpdateResult(
            loss=math.fsum(totals) / divisor,
            plain=plain / divisor,
            accuracy=right / divisor if right >= 0 else None,
            tokens=int(tokens),
            learning_rate=self._optimizers.learning_rate,
            gradient_norm=norm,
            stop=stop_reason(asked, late),
        )

    def _forward_backward(self, step: int, micro: MicroBatch) -> StepLoss:
        seed_micro_batch(self._seed, step, micro.index, self._group.device)
        batch = to_device(micro.batch, self._group.device)
        with self._autocast():
            loss: StepLoss = self._module(batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
        return loss

    def _check(
        self, step: int, norm: float, totals: Sequence[float], seen: Sequence[MicroBatch]
    ) -> None:
        """Raise DivergenceError if a loss or the gradient is no number."""
        bad = next((i for i, total in enumerate(totals) if not math.isfinite(total)), None)
        if bad is not None:
            mine = [micro for micro in seen if micro.index == bad]
            where = f" ({self._loader.where(mine[0])})" if mine else ""
            raise DivergenceError(
                f"the loss of step {step + 1} is no number in micro-batch {bad}{where}; the "
                "weights were left as they were, and the last checkpoint is good. Look at that "
                "data, lower optimizer.learning_rate or lengthen optimizer.warmup_steps"
            )
        if not math.isfinite(norm):
            raise DivergenceError(
                f"the gradient of step {step + 1} is no number, though its loss is; the weights "
                "were left as they were. Lower optimizer.learning_rate, or set "
                "optimizer.clip_norm, and continue from the last checkpoint"
            )
