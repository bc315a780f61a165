"""Sentence embeddings: each text is to lie nearer to its pair than to the others' pairs.

Symmetric InfoNCE (van den Oord et al. 2018; both directions as in CLIP, Radford et al.
2021) over cosine similarities divided by a temperature. The negatives are the other
pairs of the micro-batch, so unlike the other losses this one depends on how a batch
is cut: `batch.micro_sequences` is part of what is learned, not a matter of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from trainer.errors import RecipeError
from trainer.objectives.chunked import full_cross_entropy
from trainer.objectives.loss import Loss

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.models.network import Network


class Contrastive:
    """Cross entropy of the right pair among the pairs of the micro-batch."""

    def __init__(self, *, temperature: float, label_smoothing: float) -> None:
        """Set what divides the similarities, and the probability spread over all pairs."""
        self._temperature = temperature
        self._label_smoothing = label_smoothing

    def __call__(self, network: Network, batch: Batch) -> Loss:
        """Return the sums over the texts: the mean of both directions for each.

        `correct` counts the texts whose nearest is their own pair, in the first direction.
        A last validation batch of a single pair has nothing to tell it from, and counts
        as no target.

        Raises:
            RecipeError: training on micro-batches of a single pair.
        """
        first = _embed(network, batch["input_ids"], batch["attention_mask"])
        second = _embed(network, batch["pair_input_ids"], batch["pair_attention_mask"])
        size = len(first)
        if size == 1 and torch.is_grad_enabled():
            raise RecipeError(
                "a contrastive objective has no negatives in micro-batches of one pair; raise "
                "batch.micro_sequences (or batch.sequences) to at least 2 for each rank"
            )
        with torch.autocast(first.device.type, enabled=False):
            similarity = first @ second.t() / self._temperature
        targets = torch.arange(size, device=first.device)
        forth = self._sums(similarity, targets)
        back = self._sums(similarity.t(), targets)
        count = torch.tensor(size if size > 1 else 0, device=first.device)
        # One pair alone has a loss of exactly 0, but may be the nearest of one.
        correct = (similarity.argmax(dim=-1) == targets).sum().clamp(max=count)
        return Loss(
            (forth[0] + back[0]) / 2,
            count,
            (forth[1] + back[1]) / 2,
            correct,
        )

    def _sums(self, similarity: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        sums = full_cross_entropy(
            similarity, targets, label_smoothing=self._label_smoothing, count_correct=False
        )
        return sums.total, sums.plain


def _embed(network: Network, ids: Tensor, mask: Tensor) -> Tensor:
    """Return unit vectors, float32 `[B, D]`."""
    hidden = network.hidden({"input_ids": ids, "attention_mask": mask})
    return functional.normalize(hidden.float(), dim=-1)
