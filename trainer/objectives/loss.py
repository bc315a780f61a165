"""What an objective returns: sums over the targets of one micro-batch.

Invariant: nothing here is a mean. The sums of micro-batches add up to the sum of
the batch, on one rank or many, and whoever makes the update divides once by the
global count. So accumulation and distribution do not change a loss curve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.models.network import Network


class Loss(NamedTuple):
    """The loss of one micro-batch. A tuple of tensors, so that DDP and FSDP see through it.

    Attributes:
        total: float32 scalar, what is minimized, summed over the targets, label smoothing
            included; carries the gradient.
        count: int64 scalar, the number of targets; may be 0.
        plain: float32 scalar, the unsmoothed negative log-likelihood in nats, summed over
            the targets, without gradient; perplexity is exp(plain / count).
        correct: int64 scalar, targets that have the highest logit; None where counting
            would cost more than it tells (language models while they train).
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    plain: Tensor
    correct: Tensor | None


class Objective(Protocol):
    """Computes the loss of a network on a micro-batch."""

    def __call__(self, network: Network, batch: Batch) -> Loss:
        """Return the sums over the targets of `batch`; keys and shapes as in `data.batch`."""
        ...
