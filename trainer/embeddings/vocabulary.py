"""What the counts of words decide: which stay in the text, and which are drawn as negatives.

Invariants: a word with a count of 0 (a special token) is never drawn as a negative; the
alias table has the exact shares up to 2^-32; everything is a function of the counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Frequent words are drawn less often than their share: the power of Mikolov et al. 2013.
NEGATIVE_POWER = 0.75
_ONE = 1 << 32
# What the native code reads as "always"; smaller values are chances out of 2^32.
_ALWAYS = _ONE - 1


def keep_thresholds(counts: NDArray[np.int64], subsample: float) -> NDArray[np.uint32]:
    """Return, for each word, the chance out of 2^32 that an occurrence stays in the text.

    As in word2vec's code: a word of the share f stays with (sqrt(f/t) + 1) * t/f, which
    is a little more than the 1 - sqrt(t/f) thinning of the paper.

    Args:
        counts: i64[V] occurrences of each word.
        subsample: t; 0 keeps everything.

    Returns:
        u32[V]; 2^32 - 1 means always.
    """
    keep = np.full(len(counts), _ALWAYS, dtype=np.uint32)
    total = int(counts.sum())
    if subsample <= 0 or total == 0:
        return keep
    used = counts > 0
    ratio = counts[used] / (subsample * total)
    chance = np.minimum((np.sqrt(ratio) + 1) / ratio, 1.0)
    keep[used] = np.minimum(chance * _ONE, _ALWAYS).astype(np.uint32)
    return keep


def alias_table(counts: NDArray[np.int64], power: float = NEGATIVE_POWER) -> NDArray[np.uint32]:
    """Return a table that draws word i with a chance proportional to counts[i] ** power.

    Drawing takes one look (Walker 1977, built as Vose 1991 does): choose an entry evenly,
    then its own word with the chance threshold / 2^32, else its other word.

    Args:
        counts: i64[V] occurrences, at least one above 0.
        power: of the counts.

    Returns:
        u32[V, 2]: threshold and other word of each entry.

    Raises:
        ValueError: no word has a count.
    """
    weights = np.where(counts > 0, counts, 1).astype(np.float64) ** power
    weights[counts <= 0] = 0.0
    if not weights.sum() > 0:
        raise ValueError("no word has a count: nothing can be drawn")
    size = len(counts)
    # Shares in units of one entry; each entry is filled up to exactly 1.
    share = weights * (size / weights.sum())
    table = np.empty((size, 2), dtype=np.uint32)
    table[:, 1] = np.arange(size)
    # An entry that needs no other word points at itself, so its threshold does not matter.
    table[:, 0] = 0
    small = [int(i) for i in np.flatnonzero(share < 1.0)]
    large = [int(i) for i in np.flatnonzero(share >= 1.0)]
    shares: list[float] = share.tolist()
    while small and large:
        low, high = small.pop(), large.pop()
        table[low] = (min(int(shares[low] * _ONE), _ALWAYS), high)
        shares[high] -= 1.0 - shares[low]
        (small if shares[high] < 1.0 else large).append(high)
    # Rounding can leave an entry over; one that stands for nothing must not point at itself.
    heaviest = int(np.argmax(weights))
    for left in (*small, *large):
        if weights[left] == 0.0:
            table[left] = (0, heaviest)
    return table
