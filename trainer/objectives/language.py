"""Objectives over a vocabulary: next token, masked tokens, infilling, sequence to sequence.

All are the cross entropy of the tokens in `labels`, which are already where they
belong: position t of `labels` is the target of position t of the hidden states. They
differ in how many positions have a target. Where only some have (masked tokens, padded
sequences), the others are dropped before the product with the vocabulary, which is
most of the cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer.objectives.adaptive import AdaptiveOutput
from trainer.objectives.chunked import (
    IGNORED,
    Sums,
    chunked_cross_entropy,
    full_cross_entropy,
)
from trainer.objectives.loss import Loss

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.models.network import Network

# Below this the logits are no larger than the network's other activations.
_SMALL_VOCABULARY = 1024


class TokenPrediction:
    """Cross entropy of the tokens in `labels` int64 `[B, T]`, -100 where there is no target."""

    def __init__(
        self,
        *,
        label_smoothing: float,
        chunk_tokens: int,
        sparse: bool,
        compiled: bool = False,
    ) -> None:
        """Set how it is computed; what is computed does not depend on it.

        Args:
            label_smoothing: probability spread over the vocabulary.
            chunk_tokens: tokens whose logits exist at one time; 0 is all of them.
            sparse: many positions have no target, so drop those first.
            compiled: the run compiles, so compile the loss's inner part too.
        """
        self._label_smoothing = label_smoothing
        self._chunk_tokens = chunk_tokens
        self._sparse = sparse
        self._compiled = compiled

    def __call__(self, network: Network, batch: Batch) -> Loss:
        """Return the sums over the targets; correct ones are counted without gradients only."""
        hidden = network.hidden(batch).flatten(0, -2)
        labels = batch["labels"].flatten()
        count = (labels != IGNORED).sum()
        if self._sparse or isinstance(network.output, AdaptiveOutput):
            rows = (labels != IGNORED).nonzero().squeeze(1)
            hidden, labels = hidden.index_select(0, rows), labels.index_select(0, rows)
        sums = self._sums(network, hidden, labels, count_correct=not torch.is_grad_enabled())
        return Loss(sums.total, count, sums.plain, sums.correct)

    def _sums(
        self, network: Network, hidden: Tensor, labels: Tensor, *, count_correct: bool
    ) -> Sums:
        output = network.output
        if isinstance(output, AdaptiveOutput):
            return output.sums(hidden, labels, count_correct=count_correct)
        small = isinstance(output, nn.Linear) and output.out_features < _SMALL_VOCABULARY
        if self._chunk_tokens == 0 or small:
            return full_cross_entropy(
                network.logits(hidden),
                labels,
                label_smoothing=self._label_smoothing,
                count_correct=count_correct,
            )
        sums: Sums = chunked_cross_entropy(
            hidden,
            network.output_weight,
            network.output_bias,
            labels,
            label_smoothing=self._label_smoothing,
            chunk_tokens=self._chunk_tokens,
            count_correct=count_correct,
            compiled=self._compiled,
        )
        return sums
