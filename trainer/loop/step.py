"""The module that ranks share: a network and its objective as one forward pass.

DDP and FSDP act through the hooks of a module's `forward`. The loss needs the output
layer's weights outside of the network's own forward pass (the chunked softmax never
makes all logits), so network and objective sit in one module and the hooks cover both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.data.batch import Batch
from trainer.models.network import Network
from trainer.objectives.loss import Objective


class StepLoss(NamedTuple):
    """What one micro-batch contributes; float32 or int64 scalars.

    Attributes:
        total: sum of the loss over the targets; differentiable.
        plain: sum of the negative log-likelihood without label smoothing.
        targets: number of targets.
        correct: targets predicted right, or -1 where that was not counted.
    """

    total: Tensor
    plain: Tensor
    targets: Tensor
    correct: Tensor


class Step(nn.Module):
    """Network and objective; `forward(batch)` returns a `StepLoss`."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self._objective = objective

    def forward(self, batch: Batch) -> StepLoss:
        """Return the summed loss of a micro-batch (see `trainer.objectives.loss`)."""
        loss = self._objective(self.network, batch)
        correct = loss.correct
        if correct is None:
            correct = torch.full_like(loss.count, -1)
        return StepLoss(loss.total, loss.plain, loss.count, correct)
