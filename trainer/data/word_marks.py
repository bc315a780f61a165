"""Where words begin in running text, told from tokens alone.

Shards hold ids, not texts. How a vocabulary writes its tokens says where words begin:

    byte-level BPE, SentencePiece   a token that begins with the mark of a space, or
                                    follows a token that ends with a line end
    WordPiece                       a token that is no continuation (`##`)
    characters                      a character after whitespace
    whole words                     every token
"""

from __future__ import annotations

import string
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trainer.data.corruption import Ids
from trainer.data.tokenization import Tokenizer

# How byte-level BPE writes a space and a line end, and SentencePiece a space.
_SPACE_MARKS = ("Ġ", "▁")
_LINE_END_MARK = "Ċ"
_CONTINUATION = "##"
_WHITE = "".join((*_SPACE_MARKS, _LINE_END_MARK, string.whitespace))


class WordMarks:
    """Tells for each token of a vocabulary whether it begins a word."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokens = [tokenizer.token(number) for number in range(tokenizer.vocabulary_size)]
        special = tokenizer.special.all()
        marked = _table(token.startswith(_SPACE_MARKS) and len(token) > 1 for token in tokens)
        self._space = _table(bool(token) and not token.strip(_WHITE) for token in tokens)
        self._special = _table(number in special for number in range(len(tokens)))
        if marked.any():
            self._begins = marked
            self._after = _table(token.endswith(_LINE_END_MARK) for token in tokens) | self._space
        elif self._space.any():
            self._begins = np.zeros(len(tokens), dtype=bool)
            self._after = self._space
        else:
            self._begins = _table(not token.startswith(_CONTINUATION) for token in tokens)
            self._after = np.zeros(len(tokens), dtype=bool)
        # A document's first word follows its neighbour's end token.
        self._after = self._after | self._special

    def begins(self, ids: Ids) -> NDArray[np.bool_]:
        """Return bool[T]: whether each token begins a word; the first one always does."""
        begins = self._begins[ids]
        begins[1:] |= self._after[ids[:-1]]
        begins &= ~self._space[ids]
        begins[:1] = True
        return np.asarray(begins, dtype=bool)

    def keeps(self, ids: Ids) -> NDArray[np.bool_]:
        """Return bool[T]: whether each token is whitespace or special, and no part of a word."""
        return np.asarray(self._space[ids] | self._special[ids], dtype=bool)


def _table(values: Iterable[bool]) -> NDArray[np.bool_]:
    return np.fromiter(values, dtype=bool)
