"""Rows of different lengths as one tensor, padded on the right.

Widths are multiples of WIDTH_STEP, which is what matrix units like and keeps the number
of different shapes small, but never beyond the recipe's sequence length, which may be
all the positions a network has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainer.data.corruption import Ids

WIDTH_STEP = 8


def width(rows: Sequence[Ids], limit: int) -> int:
    """Return the common width of rows: the longest, rounded up, at most `limit`.

    A row that is longer than `limit` is never cut: the width is then its length.
    """
    longest = max(row.size for row in rows)
    return max(longest, min(-(-longest // WIDTH_STEP) * WIDTH_STEP, limit))


def pad(rows: Sequence[Ids], fill: int, limit: int) -> torch.Tensor:
    """Return i64[B, width], rows on the left, `fill` on the right."""
    padded = np.full((len(rows), width(rows, limit)), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : row.size] = row
    return torch.from_numpy(padded)


def attention(rows: Sequence[Ids], limit: int) -> torch.Tensor:
    """Return i64[B, width], 1 where a row has tokens."""
    lengths = np.array([[row.size] for row in rows], dtype=np.int64)
    return torch.from_numpy((np.arange(width(rows, limit)) < lengths).astype(np.int64))


def shift_right(labels: torch.Tensor, begin: int, ignored: int) -> torch.Tensor:
    """Return decoder inputs for targets: one position on, beginning with `begin`.

    Args:
        labels: i64[B,T], `ignored` on the padding.
        begin: T5's decoder begins with the padding token (Raffel et al. 2020); a network
            that begins with another puts it in that token's place (`models.seq2seq`).
        ignored: is replaced by `begin`.

    Returns:
        i64[B,T].
    """
    shifted = torch.full_like(labels, begin)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == ignored, begin)
