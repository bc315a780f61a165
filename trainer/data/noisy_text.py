"""Running text with something to restore: masked, infilled, or noised language modelling.

Each class wraps a data set of windows and changes its items; which window comes when,
and where it is from, stays the windows' affair.

Invariants:
- An item is a pure function of (seed, epoch, index): validation, which is always
  epoch 0, sees the same masks at every step.
- A noised language model's targets are the text itself, whatever its inputs became.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from trainer.data.augmentation import Augmenter
from trainer.data.batch import IGNORED, Batch, DataSet, Item
from trainer.data.collation import attention, pad, shift_right
from trainer.data.corruption import infill_spans, mask_tokens
from trainer.data.order import noise
from trainer.data.special import SpecialTokens
from trainer.data.word_marks import WordMarks
from trainer.errors import RecipeError


class _Wrapped:
    """What the wrappers share: the windows' size and places."""

    def __init__(self, windows: DataSet, seed: int, *settings: object) -> None:
        self._windows = windows
        self._seed = seed
        content = repr((type(self).__name__, windows.fingerprint, seed, settings))
        self._fingerprint = hashlib.sha256(content.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the windows' fingerprint and the noise, 64 hex digits."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._windows)

    def where(self, epoch: int, index: int) -> str:
        """Return where the window comes from."""
        return self._windows.where(epoch, index)

    def _noise(self, epoch: int, index: int) -> np.random.Generator:
        return noise(self._seed, epoch, index)


class MaskedText(_Wrapped):
    """Windows with masks to restore, as in BERT.

    Args:
        windows: items with input_ids i64[T]; document and position ids are kept.
        special: the mask token, and what is never masked.
        vocabulary_size: random replacements are below this.
        probability: chance of each token to be predicted.
        seed: of the masks.

    Raises:
        RecipeError: the vocabulary has no mask token.
    """

    def __init__(
        self,
        windows: DataSet,
        *,
        special: SpecialTokens,
        vocabulary_size: int,
        probability: float,
        seed: int,
    ) -> None:
        super().__init__(windows, seed, special, vocabulary_size, probability)
        if special.mask is None:
            raise RecipeError(
                "objective.kind 'masked' needs a mask token, and this tokenizer has none; "
                "train one for the family 'encoder' or use one that has it"
            )
        self._mask = special.mask
        # Unknown words say nothing as inputs, and less as targets.
        self._special = special.all()
        self._vocabulary_size = vocabulary_size
        self._probability = probability

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids and labels i64[T], and what else the window has."""
        item = self._windows.item(epoch, index)
        inputs, labels = mask_tokens(
            item["input_ids"],
            mask=self._mask,
            special=self._special,
            vocabulary_size=self._vocabulary_size,
            probability=self._probability,
            rng=self._noise(epoch, index),
        )
        return {**item, "input_ids": inputs, "labels": labels}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return the windows' batch."""
        return self._windows.collate(items)


class InfilledText(_Wrapped):
    """Windows whose missing spans are to be written, as in T5.

    Document boundaries within a window are not kept: a span may cross one.

    Args:
        windows: items with input_ids i64[T], at least two tokens.
        special: sentinels, padding and end.
        probability: share of the tokens to write.
        mean_span: mean length of a span, tokens.
        seed: of the spans.

    Raises:
        RecipeError: the vocabulary has no sentinels.
    """

    def __init__(
        self,
        windows: DataSet,
        *,
        special: SpecialTokens,
        probability: float,
        mean_span: float,
        seed: int,
    ) -> None:
        super().__init__(windows, seed, special, probability, mean_span)
        if not special.sentinels:
            raise RecipeError(
                "objective.kind 'infilling' needs sentinel tokens (<extra_id_0> and so on), and "
                "this tokenizer has none; train one for the family 'seq2seq' or use one of T5's"
            )
        self._special = special
        self._probability = probability
        self._mean_span = mean_span

    def item(self, epoch: int, index: int) -> Item:
        """Return input_ids i64[S] and labels i64[T]."""
        inputs, targets = infill_spans(
            self._windows.item(epoch, index)["input_ids"],
            probability=self._probability,
            mean_span=self._mean_span,
            sentinels=self._special.sentinels,
            end=self._special.end,
            rng=self._noise(epoch, index),
        )
        return {"input_ids": inputs, "labels": targets}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return input_ids, attention_mask i64[B,S]; labels, decoder_input_ids i64[B,T]."""
        inputs = [item["input_ids"] for item in items]
        targets = [item["labels"] for item in items]
        # All rows of a batch are as long as one another: padding would only add work.
        labels = pad(targets, IGNORED, limit=0)
        return {
            "input_ids": pad(inputs, self._special.padding, limit=0),
            "attention_mask": attention(inputs, limit=0),
            "labels": labels,
            "decoder_input_ids": shift_right(labels, self._special.padding, IGNORED),
        }


class NoisyText(_Wrapped):
    """Windows of a language model whose inputs are noised and whose targets are not.

    Args:
        windows: items with input_ids i64[T] and shifted labels.
        augmenter: masking and word dropout.
        words: tells where words begin.
        seed: of the noise.
    """

    def __init__(
        self, windows: DataSet, *, augmenter: Augmenter, words: WordMarks, seed: int
    ) -> None:
        super().__init__(windows, seed, augmenter)
        self._augmenter = augmenter
        self._words = words

    def item(self, epoch: int, index: int) -> Item:
        """Return the window with noised input_ids."""
        item = self._windows.item(epoch, index)
        ids = item["input_ids"]
        noisy = self._augmenter.apply_in_place(
            ids,
            begins_word=self._words.begins(ids),
            keep=self._words.keeps(ids),
            rng=self._noise(epoch, index),
        )
        return {**item, "input_ids": noisy}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return the windows' batch."""
        return self._windows.collate(items)
