"""Many tokenized texts in a few flat arrays.

A Python object for every text would cost more than its tokens. A column holds 4 bytes
of id and 1 of flags for a token (4 more where there are tags), and 8 for a text.
"""

from __future__ import annotations

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray

from trainer.data.pieces import Pieces


class PiecesColumn:
    """Texts as pieces, to be had by number.

    Args:
        ids: u32[N] of all texts.
        flags: u8[N].
        tags: i32[N], or None.
        starts: i64[texts + 1], where each text begins, and the end.
    """

    def __init__(
        self,
        ids: NDArray[np.uint32],
        flags: NDArray[np.uint8],
        tags: NDArray[np.int32] | None,
        starts: NDArray[np.int64],
    ) -> None:
        self._ids = ids
        self._flags = flags
        self._tags = tags
        self._starts = starts

    def __len__(self) -> int:
        return self._starts.size - 1

    def __getitem__(self, number: int) -> Pieces:
        part = slice(self._starts[number], self._starts[number + 1])
        tags = None if self._tags is None else self._tags[part].astype(np.int64)
        return Pieces(self._ids[part].astype(np.int64), self._flags[part], tags)

    def size(self, number: int) -> int:
        """Return the tokens of a text."""
        return int(self._starts[number + 1] - self._starts[number])

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return int(self._starts[-1])

    def all_tags(self) -> NDArray[np.int64]:
        """Return the tags of all texts, one after the other; i64[0] without tags."""
        if self._tags is None:
            return np.empty(0, dtype=np.int64)
        return self._tags.astype(np.int64)

    def update(self, digest: hashlib._Hash) -> None:
        """Feed everything that decides items into a digest."""
        arrays = (self._starts.astype("<i8"), self._ids.astype("<u4"), self._flags, self._tags)
        for values in arrays:
            digest.update(b"-" if values is None else values.tobytes())


class ColumnBuilder:
    """Collects texts; memory grows with the tokens, not with the texts."""

    def __init__(self, *, tagged: bool = False) -> None:
        self._ids = array("I")
        self._flags = array("B")
        self._tags = array("i") if tagged else None
        self._starts = array("q", [0])

    def append(self, pieces: Pieces) -> None:
        """Add a text."""
        self._ids.frombytes(pieces.ids.astype(np.uint32).tobytes())
        self._flags.frombytes(pieces.flags.tobytes())
        if self._tags is not None and pieces.tags is not None:
            self._tags.frombytes(pieces.tags.astype(np.int32).tobytes())
        self._starts.append(len(self._ids))

    def build(self) -> PiecesColumn:
        """Return the column; it shares the builder's memory, which takes no more texts."""
        tags = None if self._tags is None else np.frombuffer(self._tags, dtype=np.int32)
        return PiecesColumn(
            np.frombuffer(self._ids, dtype=np.uint32),
            np.frombuffer(self._flags, dtype=np.uint8),
            tags,
            np.frombuffer(self._starts, dtype=np.int64),
        )
