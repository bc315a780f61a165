"""Sums of clipped per-example gradients, from one forward and one backward pass.

`accumulate` adds sum_i weights[i] * clip(gradient of example i) into float32 buffers;
`take` hands them out. Neither noise nor a division happens here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from trainer.data.batch import Batch
from trainer.loop.batches import Autocast
from trainer.loop.step import StepLoss
from trainer.models.network import Network
from trainer.privacy.clipping import Clipping


@dataclass(frozen=True, slots=True)
class ClipStatistics:
    """Figures of one micro-batch. They are not private: no report may show them unnoised.

    Attributes:
        examples: with a weight above 0.
        clipped: share of those whose gradient was made shorter.
        median_norm: of their gradients before clipping; 0 without examples.
        nonfinite: examples whose gradient was no number; they were left out.
        loss: of the whole micro-batch, rows of weight 0 included; detached.
    """

    examples: int
    clipped: float
    median_norm: float
    nonfinite: int
    loss: StepLoss


class PerExampleGradients:
    """Computes sums of clipped per-example gradients of a network's trainable weights.

    Args:
        step: gives the loss of a batch as a sum over its targets, such as `Step`.
        network: what is trained; parameters that are frozen now are left out for good.
        clipping: the bound.

    Raises:
        PrivacyError: a trainable weight for which no per-example gradient can be had.
    """

    sums: dict[str, Tensor]

    def __init__(
        self, step: Callable[[Batch], StepLoss], network: Network, clipping: Clipping
    ) -> None: ...

    def accumulate(
        self, batch: Batch, weights: Tensor, *, autocast: Autocast = nullcontext
    ) -> ClipStatistics:
        """Add sum_i weights[i] * clip(gradient_i) to `sums`.

        Args:
            batch: on the network's device; examples along the first dimension.
            weights: float32 [rows], 0 for rows that fill up.
            autocast: makes the context of the forward pass.

        Raises:
            PrivacyError: examples of the batch cannot be told apart in some layer.
        """
        raise NotImplementedError

    def take(self) -> dict[str, Tensor]:
        """Return the sums under the names of `network.named_parameters()`; start anew."""
        raise NotImplementedError

    def check(self, batch: Batch) -> None:
        """Compare with autograd and with an example alone, once, before training.

        Raises:
            PrivacyError: sums differ from autograd's (weights used beside their layers), or
                an example's gradient depends on other examples (batch statistics).
        """
        raise NotImplementedError
