"""One tokenizer, whatever made it: text to ids and back, and the files that hold it.

`Tokenizer` wraps the `tokenizers` library. It reads a Hugging Face directory or a bare
tokenizer.json, and writes the three files that transformers.AutoTokenizer reads. It
never truncates and never pads: who packs or batches decides that.

It refuses files that are no tokenizer, loads no code from a directory, and talks to no
network. Training a new one is in `tokenizer_training`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from trainer.data.characters import CharacterTable
from trainer.data.special import SpecialTokens
from trainer.data.tokenizer_files import (
    TOKENIZER_FILE,
    read_settings,
    read_tokenizer,
    size_of,
    special_tokens,
    write_settings,
)

Ids = npt.NDArray[np.int64]


class Tokenizer:
    """Text to token ids and back.

    Args:
        backend: the tokenizer of the `tokenizers` library; it is changed to neither
            truncate nor pad.
        settings: what tokenizer_config.json says: `eos_token` and its like, in the
            names of transformers.

    Attributes:
        raw: the wrapped tokenizer, for offsets and words; not to be changed.
        special: ids of the special tokens.
        vocabulary_size: number of ids, special tokens included: one above the largest.
        digest: SHA-256 of the serialized tokenizer, 64 hex digits.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
        backend.no_truncation()
        backend.no_padding()
        # Data is data: a text that spells "<|endoftext|>" or "[MASK]" spells it in letters,
        # and cannot end a document or mask itself.
        backend.encode_special_tokens = True
        self.raw: tokenizers.Tokenizer = backend
        self._settings = dict(settings)
        self.special: SpecialTokens = special_tokens(backend, settings)
        self.vocabulary_size: int = size_of(backend)
        self.digest: str = hashlib.sha256(backend.to_str().encode()).hexdigest()
        self._characters = CharacterTable.of(backend)

    def encode(self, text: str, pair: str | None = None, *, special: bool = False) -> Ids:
        """Return the ids of a text, int64.

        Args:
            text: what to encode.
            pair: a second text, for tasks on pairs.
            special: add what the tokenizer puts around a text, as [CLS] and [SEP].
        """
        return np.asarray(
            self.raw.encode(text, pair, add_special_tokens=special).ids, dtype=np.int64
        )

    def encode_batch(
        self, texts: Sequence[str] | Sequence[tuple[str, str]], *, special: bool = False
    ) -> list[Ids]:
        """Return the ids of several texts or pairs, on all cores; as `encode`."""
        if self._characters is not None and not special:
            return [
                self._characters.encode(text) if isinstance(text, str) else self.encode(*text)
                for text in texts
            ]
        encoded = self.raw.encode_batch_fast(list(texts), add_special_tokens=special)
        return [np.asarray(single.ids, dtype=np.int64) for single in encoded]

    @property
    def lossless(self) -> bool:
        """Whether tokens, none of them unknown, stand for all bytes of their text.

        True for byte-level vocabularies and for characters without normalization; False
        where letters are folded, spaces are dropped, or nobody can tell.
        """
        if self._characters is not None:
            return True
        content = json.loads(self.raw.to_str())
        before = content["pre_tokenizer"] or {}
        steps = before.get("pretokenizers", [before])
        bytewise = any(step.get("type") == "ByteLevel" for step in steps)
        return content["normalizer"] is None and bytewise

    def decode(self, ids: Sequence[int] | Ids, *, skip_special: bool = False) -> str:
        """Return the text of ids."""
        text = self.raw.decode([int(token) for token in ids], skip_special_tokens=skip_special)
        return str(text)

    def token(self, token_id: int) -> str:
        """Return how the vocabulary writes an id, or an empty text."""
        return self.raw.id_to_token(int(token_id)) or ""

    def save(self, folder: Path, *, context: int | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

        Args:
            folder: where; it exists.
            context: tokens that the model can take, for `model_max_length`.
        """
        (folder / TOKENIZER_FILE).write_text(self.raw.to_str(pretty=True), encoding="utf-8")
        write_settings(folder, self._settings, context)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a Hugging Face directory or a tokenizer.json.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        folder = path if path.is_dir() else path.parent
        backend = read_tokenizer(path)
        return cls(backend, read_settings(folder, backend))

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocabulary_size} ids, {self.digest[:12]})"
