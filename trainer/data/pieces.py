"""Texts as tokens that still know where their words and sentences begin.

Labelled examples are tokenized once, without special tokens, and kept as arrays; the
special tokens around a text (its frame) are added when an example is asked for, after
augmentation, so that noise never touches them.

Words are what whitespace separates, whatever the tokenizer's own notion; sentences
end at `.`, `!`, `?` with whitespace after it, at CJK full stops, and at newlines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from trainer.data.batch import IGNORED
from trainer.data.corruption import Ids

# Bits of Pieces.flags.
BEGINS_WORD = 1
BEGINS_SENTENCE = 2

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]\s*|\n\s*")
# Anything that is one ordinary piece or more in every vocabulary: it tells a frame's
# beginning from its end.
_PROBE = "a"


@dataclass(frozen=True, slots=True, repr=False)
class Pieces:
    """The tokens of one text, without special tokens.

    Attributes:
        ids: i64[N].
        flags: u8[N], BEGINS_WORD and BEGINS_SENTENCE.
        tags: i64[N] class of each token, IGNORED for none; None if the task has no
            tags.
    """

    ids: Ids
    flags: NDArray[np.uint8]
    tags: Ids | None = None

    def __len__(self) -> int:
        return int(self.ids.size)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Pieces:
        """Return the pieces at these positions, in this order."""
        tags = None if self.tags is None else self.tags[index]
        return Pieces(self.ids[index], self.flags[index], tags)

    def overwrite(self, where: NDArray[np.bool_], token: int, *, keep_tags: bool = True) -> Pieces:
        """Return a copy with `token` at these positions, and no tags there unless kept."""
        ids = np.where(where, np.int64(token), self.ids)
        if keep_tags or self.tags is None:
            return replace(self, ids=ids)
        return replace(self, ids=ids, tags=np.where(where, np.int64(IGNORED), self.tags))


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens that a tokenizer puts around a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Frame:
        """Read the frame off the tokenizer's own post-processor."""
        encoding = tokenizer.encode(_PROBE, add_special_tokens=True)
        ordinary = [at for at, flag in enumerate(encoding.special_tokens_mask) if not flag]
        if not ordinary:
            return cls((), ())
        ids = encoding.ids
        return cls(tuple(ids[: ordinary[0]]), tuple(ids[ordinary[-1] + 1 :]))

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: Ids) -> Ids:
        """Return i64[len(ids) + len(self)]."""
        return np.concatenate((_array(self.before), ids, _array(self.after)))


@dataclass(frozen=True, slots=True)
class PairFrame:
    """The special tokens that a tokenizer puts around two texts in one sequence."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    # Token types of before, first, between, second, after: one for each run of tokens.
    types: tuple[int, int, int, int, int] = field(default=(0, 0, 0, 0, 0), repr=False)

    @classmethod
    def of(cls, tokenizer: Tokenizer, separator: int | None) -> PairFrame:
        """Read the frame off the tokenizer's post-processor.

        Args:
            tokenizer: the tokenizer.
            separator: stands between the texts if the post-processor puts nothing there.
        """
        single = Frame.of(tokenizer)
        encoding = tokenizer.encode(_PROBE, _PROBE, add_special_tokens=True)
        inner = encoding.special_tokens_mask[len(single.before) :]
        inner = inner[: len(inner) - len(single.after)]
        ids = encoding.ids[len(single.before) :]
        between = tuple(ids[at] for at, flag in enumerate(inner) if flag)
        types = _pair_types(encoding)
        if not between and separator is not None:
            between = (separator,)
        return cls(single.before, between, single.after, types)

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Ids, second: Ids) -> Ids:
        """Return i64[len(first) + len(second) + len(self)]."""
        parts = (_array(self.before), first, _array(self.between), second, _array(self.after))
        return np.concatenate(parts)

    def types_around(self, first: int, second: int) -> Ids:
        """Return the token types of a row, i64[first + second + len(self)]."""
        counts = (len(self.before), first, len(self.between), second, len(self.after))
        return np.repeat(_array(self.types), counts)


def _pair_types(encoding: Encoding) -> tuple[int, int, int, int, int]:
    """Return the types that a tokenizer gives two texts and what stands around them."""
    types, flags = encoding.type_ids, encoding.special_tokens_mask
    ordinary = [at for at, flag in enumerate(flags) if not flag]
    if not ordinary:
        return (0, 0, 0, 0, 0)
    first, last = ordinary[0], ordinary[-1]
    inside = [types[at] for at in range(first, last) if flags[at]]
    between = inside[0] if inside else types[first]
    return (types[0], types[first], between, types[last], types[-1])


def _array(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, dtype=np.int64)


def cut(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Pieces]:
    """Tokenize texts, without special tokens."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [
        _pieces(text, encoding, _words(text, encoding))
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def cut_tagged(
    tokenizer: Tokenizer, words: Sequence[Sequence[str]], tags: Sequence[Sequence[int]]
) -> list[Pieces]:
    """Tokenize lists of words, with each word's tag at its first piece.

    The words are joined by spaces, as a text that is tagged later will be. A word of
    which the tokenizer keeps nothing (a control character) loses its tag.
    """
    texts = [" ".join(row) for row in words]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    found: list[Pieces] = []
    for text, encoding, row in zip(texts, encodings, tags, strict=True):
        word = _words(text, encoding)
        pieces = _pieces(text, encoding, word)
        first = (pieces.flags & BEGINS_WORD).astype(bool)
        aligned = np.full(word.shape, IGNORED, dtype=np.int64)
        aligned[first] = np.asarray(row, dtype=np.int64)[word[first]]
        found.append(replace(pieces, tags=aligned))
    return found


def _pieces(text: str, encoding: Encoding, word: Ids) -> Pieces:
    begins = np.concatenate(([-1], word[:-1])) if word.size else word
    # A piece of whitespace alone belongs to no word and must not split one in two.
    flags = ((word >= 0) & (word > np.maximum.accumulate(begins))).astype(np.uint8) * BEGINS_WORD
    ends = np.array([match.end() for match in _SENTENCE_END.finditer(text)], dtype=np.int64)
    starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
    sentence = np.searchsorted(ends, starts, side="right")
    changed = np.diff(sentence, prepend=-1) > 0
    flags |= changed.astype(np.uint8) * np.uint8(BEGINS_SENTENCE)
    return Pieces(_array(encoding.ids), flags, None)


def _words(text: str, encoding: Encoding) -> Ids:
    """Return the number of the word each token belongs to, -1 for whitespace: i64[N].

    A token that begins with spaces (byte-level BPE) belongs to the word after them.
    """
    spans = np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    if spans.size == 0:
        return np.full(offsets.shape[0], -1, dtype=np.int64)
    # The first word that ends behind the token's beginning: the one it is in, or the next.
    number = np.searchsorted(spans[:, 1], offsets[:, 0], side="right")
    inside = number < len(spans)
    inside[inside] = spans[number[inside], 0] < offsets[inside, 1]
    return np.where(inside, number, -1).astype(np.int64)
