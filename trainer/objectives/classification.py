"""Classes of whole texts and of tokens (tagging): cross entropy over a few labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.objectives.chunked import IGNORED, full_cross_entropy
from trainer.objectives.loss import Loss

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.models.network import Network


class Classification:
    """Cross entropy of `labels`: int64 `[B]` of texts, or `[B, T]` of tokens.

    -100 is no target: padding, and the pieces of a word after its first.
    """

    def __init__(self, *, label_smoothing: float) -> None:
        """`label_smoothing`: probability spread over the labels."""
        self._label_smoothing = label_smoothing

    def __call__(self, network: Network, batch: Batch) -> Loss:
        """Return the sums over the targets."""
        logits = network(batch).flatten(0, -2)
        labels = batch["labels"].flatten()
        sums = full_cross_entropy(
            logits, labels, label_smoothing=self._label_smoothing, count_correct=True
        )
        return Loss(sums.total, (labels != IGNORED).sum(), sums.plain, sums.correct)
