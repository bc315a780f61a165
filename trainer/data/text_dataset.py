"""Windows of fixed length over a stream of tokens: what language models learn from.

A window is sequence_length + 1 tokens: each predicts the next. Windows follow one another
without overlap of targets. In training every epoch starts cutting at another phase, drawn
from the seed, so that the same borders do not come back; validation starts at 0.

Several documents may share a window; then `document_ids` tells them apart, so that
attention can stay inside one. The first token of a document is a target of the end token
before it; where the vocabulary has no end token it is no target.

It refuses a stream that is shorter than one window. Invariant: the number of windows is
the same in every epoch, and a window is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.batch import IGNORED, Batch, Item
from trainer.data.order import mix
from trainer.data.shards import ShardSet
from trainer.errors import DataError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, repr=False)
class Window:
    """One window.

    Attributes:
        tokens: int64[T+1].
        document_ids: int64[T+1]; 0 for the first document in the window, then 1, ...
    """

    tokens: Ids
    document_ids: Ids


# Tokens looked at in one go.
_SCAN_TOKENS = 1 << 20


class WindowedText:
    """Next-token examples over a shard set; a `DataSet` with `HasBytes`.

    Items: input_ids, labels i64[T], and with boundaries document_ids i64[T].

    Args:
        shards: the tokens.
        sequence_length: T.
        boundaries: tell documents apart.
        seed: of the phases; None starts every epoch at 0, for validation.
        end: the token that ends a document, if the vocabulary has one.
        role: "train" or "validation", for errors.
        lossless: whether the tokens stand for all bytes of the text.

    Raises:
        DataError: the stream is shorter than one window.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        sequence_length: int,
        boundaries: bool,
        seed: int | None,
        end: int | None,
        role: str = "train",
        lossless: bool = True,
    ) -> None:
        if shards.tokens < sequence_length + 1:
            raise DataError(
                f"the {role} corpus has {shards.tokens} tokens, fewer than one sequence of "
                f"data.sequence_length ({sequence_length}) and its next token; give more text "
                f"or set data.sequence_length to {max(shards.tokens - 1, 0)} or less"
            )
        self._lossless = lossless
        self.shards = shards
        self.sequence_length = sequence_length
        self._boundaries = boundaries
        self._seed = seed
        self._end = end
        self._role = role
        steps = shards.tokens - 1
        self._count = steps // sequence_length
        if seed is not None and self._count > 1:
            # One window is given up so that every phase has as many.
            self._count = (steps - sequence_length + 1) // sequence_length
        self._phases = (
            1 if seed is None else min(sequence_length, steps - self._count * sequence_length + 1)
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shard set and how it is cut."""
        cut = (self.shards.digest, self.sequence_length, self._boundaries, self._seed, self._end)
        return hashlib.sha256(repr(cut).encode()).hexdigest()

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the text for each token, end tokens included.

        None where tokens do not stand for all of the text: bits for each byte would count
        what became an unknown token as if it had been predicted.
        """
        if not self._lossless:
            return None
        return self.shards.utf8_bytes / self.shards.tokens

    def __len__(self) -> int:
        return self._count

    def _begin(self, epoch: int, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"window {index} is not below {self._count}")
        phase = 0 if self._seed is None else mix(self._seed, epoch, 1) % self._phases
        return phase + index * self.sequence_length

    def window(self, epoch: int, index: int) -> Window:
        """Return the tokens of a window and the documents that they belong to."""
        begin = self._begin(epoch, index)
        end = begin + self.sequence_length + 1
        document_ids = np.zeros(end - begin, dtype=np.int64)
        # A document that begins with the window's first token is the window's first.
        document_ids[self.shards.begins(begin + 1, end) - begin] = 1
        return Window(self.shards.read(begin, end), np.cumsum(document_ids))

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids and labels, int64[T]; with boundaries also document_ids."""
        window = self.window(epoch, index)
        labels = window.tokens[1:]
        if self._end is None:
            crosses = window.document_ids[1:] != window.document_ids[:-1]
            labels = np.where(crosses, IGNORED, labels)
        item: Item = {"input_ids": window.tokens[:-1], "labels": labels}
        if self._boundaries:
            item["document_ids"] = window.document_ids[:-1]
        return item

    def where(self, epoch: int, index: int) -> str:
        """Return the range of tokens in the shards."""
        begin = self._begin(epoch, index)
        end = begin + self.sequence_length
        return f"tokens {begin} to {end} of the {self._role} corpus in {self.shards.folder}"

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return items as one batch; document_ids only where a row has two documents."""
        return collate_windows(items)


def collate_windows(items: Sequence[Item]) -> Batch:
    """Stack items of one length, and mark documents where a row holds more than one.

    Returns:
        Every array of the items as int64[B, T]; `document_ids` and `position_ids`, which
        restart with every document, only if a row holds more than one document.
    """
    stacked = {name: np.stack([item[name] for item in items]) for name in items[0]}
    document_ids = stacked.pop("document_ids", None)
    if document_ids is not None and document_ids[:, -1].any():
        stacked["document_ids"] = document_ids
        stacked["position_ids"] = _positions(document_ids)
    return {name: torch.from_numpy(array) for name, array in stacked.items()}


def _positions(document_ids: Ids) -> Ids:
    """Return the position of each token within its document, int64[B, T]."""
    position = np.broadcast_to(np.arange(document_ids.shape[1]), document_ids.shape)
    begins = np.zeros_like(document_ids)
    changed = document_ids[:, 1:] != document_ids[:, :-1]
    begins[:, 1:] = np.where(changed, position[:, 1:], 0)
    positions: Ids = position - np.maximum.accumulate(begins, axis=1)
    return positions


def holds_token(shards: ShardSet, token: int | None) -> bool:
    """Whether a token occurs anywhere in a shard set; None occurs nowhere."""
    if token is None:
        return False
    starts = range(0, shards.tokens, _SCAN_TOKENS)
    return any(
        bool((shards.read(start, min(start + _SCAN_TOKENS, shards.tokens)) == token).any())
        for start in starts
    )
