"""A tokenizer.json as it is read, and what each kind of tokenizer makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import SourceError

NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
BYTE: Final = 6

BYTE_LEVEL: Final = "gpt2"
SENTENCEPIECE: Final = "llama"


@dataclass(frozen=True, slots=True)
class Pieces:
    """The part of a `Vocabulary` that depends on the kind of tokenizer.

    `texts` has the ids of the model's own vocabulary only; `types` those of them that are
    not normal.
    """

    model: str
    pre: str | None
    texts: Mapping[int, str]
    types: Mapping[int, int]
    merges: tuple[str, ...] = ()
    scores: Mapping[int, float] | None = None
    add_space_prefix: bool | None = None
    dropped: int | None = None
    nfc: bool = False
    built: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class TokenizerContent:
    """tokenizer.json as parsed, for errors that name it.

    Attributes:
        path: the file.
        content: all of it.
        model: its "model".
        vocabulary: token to id.
        added: its added tokens by id.
    """

    def __init__(self, path: Path, text: bytes) -> None:
        """Take the bytes of a file that the tokenizers library has read before."""
        self.path = path
        self.content: dict[str, Any] = json.loads(text)
        self.model: dict[str, Any] = self.content["model"]
        vocabulary = self.model.get("vocab")
        self.vocabulary: dict[str, int] = vocabulary if isinstance(vocabulary, dict) else {}
        self.added: dict[int, dict[str, Any]] = {
            token["id"]: token for token in self.content.get("added_tokens") or []
        }

    def refuse(self, problem: str) -> SourceError:
        """Return the error that names this file, for the caller to raise."""
        return SourceError(f"{self.path}: {problem}")

    def require_without(self, names: Sequence[str]) -> None:
        """Check that a BPE has none of some settings.

        Raises:
            SourceError: it has one; names it.
        """
        for name in names:
            if self.model.get(name):
                raise self.refuse(f"a BPE with {name} is not exported to GGUF")
