"""Hierarchical (adaptive) softmax: frequent tokens are cheap, rare ones share small clusters.

Grave et al., "Efficient softmax approximation for GPUs", 2017. The head holds the
tokens before the first cutoff and one entry for each cluster; a cluster's tokens are
scored in a quarter of the width of the cluster before. Cheap, because a training step
scores a cluster only where it is the target's; exact, because the probabilities are a
true distribution over the vocabulary, so perplexities compare with a full softmax.

It needs token numbers in order of falling frequency. Without cutoffs it is a plain
softmax with one matrix.

Invariants: every parameter takes part in every loss, if only with a gradient of 0, so
that ranks whose micro-batches met other clusters still agree on what to reduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import RecipeError
from trainer.objectives.chunked import Sums

_DIVISION = 4  # of the width, from one cluster to the next
# Vocabularies below this gain nothing: the head would hold nearly all of it.
_SMALLEST_SPLIT = 4000
_JUDGED_TOKENS = 256  # scored over the whole vocabulary at one time, in validation


def default_cutoffs(vocabulary_size: int) -> tuple[int, ...]:
    """Return where clusters begin: a twenty-fifth and a fifth of the vocabulary.

    50,000 words give (2000, 10000). Small vocabularies give (): one plain softmax.
    """
    if vocabulary_size < _SMALLEST_SPLIT:
        return ()
    return (vocabulary_size // 25, vocabulary_size // 5)


class AdaptiveOutput(nn.Module):
    """An output layer whose softmax is split by frequency.

    Attributes:
        width: of the hidden states, D.
        vocabulary_size: V.
        cutoffs: first token of each cluster; () is a plain softmax.
    """

    def __init__(self, width: int, vocabulary_size: int, cutoffs: Sequence[int] = ()) -> None:
        """Make new layers; empty `cutoffs` are chosen by `default_cutoffs`.

        Raises:
            RecipeError: cutoffs that do not rise, or lie outside the vocabulary.
        """
        super().__init__()
        chosen = tuple(cutoffs) or default_cutoffs(vocabulary_size)
        bounds = (0, *chosen, vocabulary_size)
        if any(low >= high for low, high in pairwise(bounds)):
            raise RecipeError(
                f"objective.cutoffs is {list(chosen)}; they must rise and lie between 1 and "
                f"{vocabulary_size - 1} for a vocabulary of {vocabulary_size}"
            )
        self.width = width
        self.vocabulary_size = vocabulary_size
        self.cutoffs = chosen
        self._bounds = (*chosen, vocabulary_size)
        self.head = nn.Linear(width, self._bounds[0] + len(chosen), bias=False)
        self.tail = nn.ModuleList()
        for index, (low, high) in enumerate(pairwise(self._bounds)):
            inner = max(1, width // _DIVISION ** (index + 1))
            self.tail.append(
                nn.Sequential(
                    nn.Linear(width, inner, bias=False),
                    nn.Linear(inner, high - low, bias=False),
                )
            )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return all log-probabilities, float32 `[..., V]`, of hidden states `[..., D]`."""
        head = functional.log_softmax(self.head(hidden).float(), dim=-1)
        shortlist = self._bounds[0]
        pieces = [head[..., :shortlist]]
        for index, cluster in enumerate(self.tail):
            inside = functional.log_softmax(cluster(hidden).float(), dim=-1)
            pieces.append(inside + head[..., shortlist + index : shortlist + index + 1])
        return torch.cat(pieces, dim=-1)

    def negative_log_likelihood(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the exact negative log-likelihood of each target, float32 `[N]`, in nats.

        Args:
            hidden: `[N, D]`; N may be 0.
            targets: int64 `[N]`, all within the vocabulary.
        """
        shortlist = self._bounds[0]
        # Which entry of the head each target needs: its own, or its cluster's.
        entry = targets.clamp(max=shortlist - 1)
        parts = []
        for index, cluster in enumerate(self.tail):
            low, high = self._bounds[index], self._bounds[index + 1]
            inside = (targets >= low) & (targets < high)
            rows = inside.nonzero().squeeze(1)
            entry = entry.masked_fill(inside, shortlist + index)
            # Without any row the layers still run, and get gradients of 0.
            scores = cluster(hidden.index_select(0, rows)).float()
            losses = functional.cross_entropy(scores, targets[rows] - low, reduction="none")
            parts.append(losses.new_zeros(len(targets)).index_add(0, rows, losses))
        loss = functional.cross_entropy(self.head(hidden).float(), entry, reduction="none")
        for part in parts:
            loss = loss + part
        return loss

    def sums(self, hidden: Tensor, targets: Tensor, *, count_correct: bool) -> Sums:
        """Return the sums over targets `[N]`, none of them -100; `correct` scores every token."""
        total = self.negative_log_likelihood(hidden, targets).sum()
        correct = None
        if count_correct:
            correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
            for start in range(0, len(targets), _JUDGED_TOKENS):
                rows = slice(start, start + _JUDGED_TOKENS)
                correct += (self(hidden[rows]).argmax(dim=-1) == targets[rows]).sum()
        return Sums(total, total.detach(), correct)
