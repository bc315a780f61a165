"""Figures over a validation set, between updates.

Every item counts once over all ranks; fillers, which keep the ranks' collectives in
step, count for nothing. Neither noise nor dropout acts here, and the global random
state is not used, so that validating more or less often does not change a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from trainer.data.loader import Sweep
from trainer.distribution.group import Group
from trainer.distribution.wrap import release_weights
from trainer.errors import DivergenceError
from trainer.loop.batches import Autocast, to_device
from trainer.loop.step import StepLoss

# Beyond this mean loss (nats) a perplexity overflows and tells nothing.
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, slots=True)
class Validation:
    """Figures of one validation.

    Attributes:
        loss: mean negative log-likelihood of a target (nats), without label smoothing.
        metrics: by name: `perplexity` and `bits_per_byte` of running text, `accuracy`
            where it was counted.
    """

    loss: float
    metrics: dict[str, float]


@torch.no_grad()
def validate(
    module: nn.Module,
    sweep: Sweep,
    group: Group,
    autocast: Autocast,
    *,
    running_text: bool,
    bytes_per_token: float | None,
) -> Validation:
    """Go over a validation set once.

    Args:
        module: a `Step`, as `distribute` returned it.
        sweep: this rank's part of the set.
        group: the ranks.
        autocast: makes the context of a forward pass.
        running_text: whether targets are tokens of a text, so that perplexity means something.
        bytes_per_token: UTF-8 bytes of the text for each token, where known.

    Raises:
        DivergenceError: the loss is no number.
    """
    module.eval()
    figures = torch.zeros(4, dtype=torch.float64, device=group.device)
    for micro in sweep:
        with autocast():
            loss: StepLoss = module(to_device(micro.batch, group.device))
        if micro.counts:
            figures += torch.stack([part.double() for part in loss])
    release_weights(module)
    group.sum_(figures)
    _, plain, targets, right = figures.tolist()
    mean = plain / max(targets, 1.0)
    if not math.isfinite(mean):
        raise DivergenceError(
            "the validation loss is no number; the last checkpoint is good. Lower "
            "optimizer.learning_rate and continue from there"
        )
    metrics: dict[str, float] = {}
    if running_text:
        metrics["perplexity"] = math.exp(min(mean, _LARGEST_EXPONENT))
        if bytes_per_token:
            metrics["bits_per_byte"] = mean / math.log(2) / bytes_per_token
    if right >= 0:
        metrics["accuracy"] = right / max(targets, 1.0)
    return Validation(mean, metrics)
