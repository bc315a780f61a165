"""A GGUF's vocabulary: text to tokens and back, and which tokens are controls.

Text is always tokenized as plain text. Where a text spells a control token out, the
result holds the pieces of that spelling and never the control token; this is checked
on every result and not left to llama.cpp's `parse_special` flag alone.

Everything here reads what llama.cpp fixed when it loaded the model, so any thread may
call it. The caches are filled token by token and a lost race only computes a value twice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from llama_cpp import llama_cpp as c_api

from runtime.engine.errors import EngineError

_NULL_TOKEN = -1
_PIECE_BYTES = 256


class LlamaVocabulary:
    """The `Vocabulary` half of a LlamaBackend."""

    def __init__(self, vocabulary: Any) -> None:
        self._vocabulary = vocabulary
        self.vocabulary_size = int(c_api.llama_vocab_n_tokens(vocabulary))
        bos = int(c_api.llama_vocab_bos(vocabulary))
        wants_bos = bool(c_api.llama_vocab_get_add_bos(vocabulary))
        self.bos = bos if wants_bos and bos != _NULL_TOKEN else None
        self._pieces: list[bytes | None] = [None] * self.vocabulary_size
        hidden = c_api.LLAMA_TOKEN_ATTR_CONTROL | c_api.LLAMA_TOKEN_ATTR_UNKNOWN
        self._control_ids = frozenset(
            token
            for token in range(self.vocabulary_size)
            if c_api.llama_vocab_get_attr(vocabulary, token) & hidden
        )
        self.control_tokens: Mapping[str, int] = {
            text: token
            for token in sorted(self._control_ids)
            if (text := self._spelling(token)) is not None
        }
        self._end_ids = frozenset(
            token
            for token in range(self.vocabulary_size)
            if c_api.llama_vocab_is_eog(vocabulary, token)
        )

    def _spelling(self, token: int) -> str | None:
        raw = c_api.llama_vocab_get_text(self._vocabulary, token)
        text = raw.decode("utf-8", "replace") if raw else ""
        return text or None

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a plain text: no BOS, and never a control token.

        Raises:
            EngineError: the vocabulary has no other way to spell a control token.
        """
        tokens = self._tokenize(text)
        if self._control_ids.isdisjoint(tokens):
            return tokens
        # No vocabulary seen so far gets here: a merge would have to build the whole
        # spelling of a control token out of ordinary neighbours. Cutting the text in
        # two makes that merge impossible.
        if len(text) < 2:
            raise EngineError("the vocabulary spells a character as a control token")
        middle = len(text) // 2
        return self.tokenize(text[:middle]) + self.tokenize(text[middle:])

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode("utf-8")
        # A token has at least one byte, but a leading space may be added.
        room = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = c_api.llama_tokenize(
                self._vocabulary, data, len(data), buffer, room, False, False
            )
            if count >= 0:
                return buffer[:count]
            if -count <= room:
                raise EngineError("the text is too long to tokenize")
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for control tokens."""
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def _piece(self, token: int) -> bytes:
        room = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = c_api.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return token in self._end_ids
