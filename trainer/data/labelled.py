"""Labelled examples as data sets: tokenized once, noised and framed when asked for.

One class for each task. Texts are cut to the recipe's sequence length when they are
loaded; special tokens (the frame) and augmentation come in `item`.

What it refuses: texts of which the vocabulary holds nothing, labels that are not among
the known ones, sequence lengths that leave no room beside the special tokens.

Invariants:
- `item` is a pure function of (seed, epoch, index); without an augmenter, of the index.
- The rows of a batch are at most `sequence_length` long.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.augmentation import Augmenter
from trainer.data.batch import IGNORED, Batch, Item
from trainer.data.collation import attention, pad, shift_right
from trainer.data.columns import PiecesColumn
from trainer.data.order import noise
from trainer.data.pieces import Frame, PairFrame, Pieces


@dataclass(frozen=True, slots=True)
class ExampleTable:
    """Examples as arrays.

    Attributes:
        texts: the first text of each example.
        pairs: the second ones, None if the task has none.
        classes: i64[N], the class of each; all 0 if the task has none.
        lines: i64[N], where each stands in its file.
        files: i32[N], index into `paths`.
        paths: the files.
        truncated: texts that were cut.
    """

    texts: PiecesColumn
    pairs: PiecesColumn | None
    classes: NDArray[np.int64]
    lines: NDArray[np.int64]
    files: NDArray[np.int32]
    paths: tuple[Path, ...]
    truncated: int

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, index: int) -> str:
        """Return "file:line" of an example."""
        return f"{self.paths[self.files[index]]}:{self.lines[index]}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How token rows are laid out around the texts.

    Attributes:
        frame: special tokens around one text.
        pair_frame: special tokens around two.
        padding: id that fills rows.
        end: id that ends targets, None if the vocabulary has none.
        sequence_length: tokens a row has at most.
    """

    frame: Frame
    pair_frame: PairFrame
    padding: int
    end: int | None
    sequence_length: int


class LabelledExamples(ABC):
    """What the data sets of all labelled tasks share.

    Args:
        table: the examples.
        layout: how rows are laid out.
        labels: names of the classes, in order.
        augmenter: noise on inputs; None for validation.
        seed: of the noise.
    """

    def __init__(
        self,
        table: ExampleTable,
        layout: Layout,
        labels: tuple[str, ...],
        *,
        augmenter: Augmenter | None = None,
        seed: int = 0,
    ) -> None:
        self.table = table
        self.layout = layout
        self.labels = labels
        self._augmenter = augmenter
        self._seed = seed
        self._fingerprint = self._digest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens, labels and layout, 64 hex digits."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.table)

    def label_counts(self) -> dict[str, int]:
        """Return how often each label occurs; empty for tasks without labels."""
        return {}

    def length(self, index: int) -> int:
        """Return the tokens of an example without special ones: of both texts."""
        pairs = self.table.pairs
        return self.table.texts.size(index) + (0 if pairs is None else pairs.size(index))

    def where(self, epoch: int, index: int) -> str:
        """Return "file:line" of an example; the same in every epoch."""
        del epoch
        return self.table.where(index)

    @abstractmethod
    def item(self, epoch: int, index: int) -> Item:
        """Return an example, its inputs noised for this epoch."""

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """Return items as one padded batch."""

    def _noised(self, pieces: Pieces, rng: np.random.Generator) -> Pieces:
        return pieces if self._augmenter is None else self._augmenter.apply(pieces, rng)

    def _noise(self, epoch: int, index: int) -> np.random.Generator:
        return noise(self._seed, epoch, index)

    def _inputs(self, items: Sequence[Item], prefix: str = "") -> Batch:
        rows = [item[f"{prefix}input_ids"] for item in items]
        limit = self.layout.sequence_length
        return {
            f"{prefix}input_ids": pad(rows, self.layout.padding, limit),
            f"{prefix}attention_mask": attention(rows, limit),
        }

    def _digest(self) -> str:
        table = self.table
        digest = hashlib.sha256(repr((type(self).__name__, self.layout, self.labels)).encode())
        table.texts.update(digest)
        if table.pairs is not None:
            table.pairs.update(digest)
            digest.update(repr(self.layout.pair_frame.types).encode())
        digest.update(table.classes.astype("<i8").tobytes())
        return digest.hexdigest()


class ClassificationExamples(LabelledExamples):
    """A text, or two, and its class."""

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids i64[T] and labels i64[]; of two texts token_type_ids too."""
        rng = self._noise(epoch, index)
        text = self._noised(self.table.texts[index], rng).ids
        label = self.table.classes[index].reshape(())
        if self.table.pairs is None:
            return {"input_ids": self.layout.frame.around(text), "labels": label}
        frame = self.layout.pair_frame
        pair = self._noised(self.table.pairs[index], rng).ids
        item = {"input_ids": frame.around(text, pair), "labels": label}
        if any(frame.types):
            item["token_type_ids"] = frame.types_around(text.size, pair.size)
        return item

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return input_ids, attention_mask (token_type_ids) i64[B,T] and labels i64[B]."""
        labels = np.stack([item["labels"] for item in items])
        batch = {**self._inputs(items), "labels": torch.from_numpy(labels)}
        if "token_type_ids" in items[0]:
            types = [item["token_type_ids"] for item in items]
            batch["token_type_ids"] = pad(types, 0, self.layout.sequence_length)
        return batch

    def label_counts(self) -> dict[str, int]:
        """Return how many examples each class has."""
        return _count(self.table.classes, self.labels)


class TaggingExamples(LabelledExamples):
    """A text and a tag for each of its words, at the word's first piece."""

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids and labels i64[T]."""
        pieces = self._noised(self.table.texts[index], self._noise(epoch, index))
        frame = self.layout.frame
        tags = np.full(len(pieces) + len(frame), IGNORED, dtype=np.int64)
        if pieces.tags is not None:
            tags[len(frame.before) : len(frame.before) + len(pieces)] = pieces.tags
        return {"input_ids": frame.around(pieces.ids), "labels": tags}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return input_ids, attention_mask and labels i64[B,T]."""
        labels = pad([item["labels"] for item in items], IGNORED, self.layout.sequence_length)
        return {**self._inputs(items), "labels": labels}

    def label_counts(self) -> dict[str, int]:
        """Return how many words each tag has."""
        return _count(self.table.texts.all_tags(), self.labels)


class ContrastiveExamples(LabelledExamples):
    """Two texts that belong together."""

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids i64[T] and pair_input_ids i64[S]."""
        rng = self._noise(epoch, index)
        frame = self.layout.frame
        return {
            "input_ids": frame.around(self._noised(self.table.texts[index], rng).ids),
            "pair_input_ids": frame.around(self._noised(_pair(self.table, index), rng).ids),
        }

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return ids and masks i64[B,T] of the texts and, prefixed `pair_`, i64[B,S]."""
        return {**self._inputs(items), **self._inputs(items, "pair_")}


class SequencePairExamples(LabelledExamples):
    """A text and the text to make of it; only the first one is noised."""

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids i64[S] and labels i64[T]."""
        text = self._noised(self.table.texts[index], self._noise(epoch, index)).ids
        return {
            "input_ids": self.layout.frame.around(text),
            "labels": self._target(_pair(self.table, index).ids),
        }

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return input_ids, attention_mask i64[B,S]; labels, decoder_input_ids i64[B,T]."""
        labels = pad([item["labels"] for item in items], IGNORED, self.layout.sequence_length)
        begun = shift_right(labels, self.layout.padding, IGNORED)
        return {**self._inputs(items), "labels": labels, "decoder_input_ids": begun}

    def _target(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        framed = self.layout.frame.around(ids)
        end = self.layout.end
        if end is None or framed[-1] == end:
            return framed
        return np.concatenate((framed, [end]))[: self.layout.sequence_length]


def _count(numbers: NDArray[np.int64], labels: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(numbers[numbers >= 0], minlength=len(labels))
    return dict(zip(labels, counts.tolist(), strict=True))


def _pair(table: ExampleTable, index: int) -> Pieces:
    if table.pairs is None:
        raise ValueError("a task on pairs was given a table without second texts")
    return table.pairs[index]


TASK_SETS: dict[str, type[LabelledExamples]] = {
    "classification": ClassificationExamples,
    "tagging": TaggingExamples,
    "contrastive": ContrastiveExamples,
    "sequence-to-sequence": SequencePairExamples,
}
