"""Words of a text as ids, read by position, so that any chunk can be worked on by itself.

A position holds a word, the end of a sentence (-1), or a word outside the vocabulary (-2,
passed over by the native code, as word2vec does: the words around it become neighbours).
Nothing here holds more than one chunk in memory.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.shards import ShardSet
from trainer.data.special import SpecialTokens

SENTENCE_END = -1
UNKNOWN = -2
Words = NDArray[np.int32]
_COUNTING_BLOCK = 1 << 20


class Corpus(Protocol):
    """A text by positions; `read` may be called from several threads at the same time."""

    @property
    def positions(self) -> int:
        """Positions, ends of sentences included."""

    def read(self, start: int, stop: int) -> Words:
        """Return the ids of [start, stop), int32, contiguous; may hold further ends."""


class ArrayCorpus:
    """A text that is in memory: i32[N] ids, -1 and -2."""

    def __init__(self, words: Words) -> None:
        self._words = np.ascontiguousarray(words, dtype=np.int32)

    @property
    def positions(self) -> int:
        """See `Corpus`."""
        return len(self._words)

    def read(self, start: int, stop: int) -> Words:
        """See `Corpus`."""
        return self._words[start:stop]


class ShardCorpus:
    """A text in memory-mapped shards, as `trainer.data` prepares them."""

    def __init__(self, shards: ShardSet, special: SpecialTokens, vocabulary_size: int) -> None:
        self._shards = shards
        self._meaning = np.arange(vocabulary_size, dtype=np.int32)
        self._meaning[list(special.all())] = SENTENCE_END
        if special.unknown is not None:
            self._meaning[special.unknown] = UNKNOWN

    @property
    def positions(self) -> int:
        """See `Corpus`."""
        return self._shards.tokens

    def read(self, start: int, stop: int) -> Words:
        """See `Corpus`; a document's first word also ends the sentence before."""
        words = self._meaning[self._shards.read(start, stop)]
        begins = self._shards.begins(start, stop) - start
        return np.insert(words, begins[begins > 0], np.int32(SENTENCE_END))


def count_words(corpus: Corpus, vocabulary_size: int) -> tuple[NDArray[np.int64], int]:
    """Count a text.

    Returns:
        i64[V] occurrences of each word, and the number of all words, those outside of the
        vocabulary included.
    """
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    unknown = 0
    for start in range(0, corpus.positions, _COUNTING_BLOCK):
        words = corpus.read(start, min(start + _COUNTING_BLOCK, corpus.positions))
        counts += np.bincount(words[words >= 0], minlength=vocabulary_size)
        unknown += int(np.count_nonzero(words == UNKNOWN))
    return counts, int(counts.sum()) + unknown
