"""Writes a shard set: docs/formats/shards.md is normative.

Tokens are appended in pieces and go to disk shard by shard; the memory needed does not
grow with the corpus. The manifest is written last, after every shard is on the disk, so
a folder with a manifest is whole.

It refuses tokens beyond the vocabulary. Invariant: every shard but the last holds
exactly `shard_tokens` tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from trainer.data.shards import (
    BEGIN_TYPE,
    FORMAT,
    MANIFEST_FILE,
    TOKEN_TYPES,
    manifest_digest,
    shard_name,
)

_LARGEST_U16 = 1 << 16


class _File:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()

    def write(self, values: npt.NDArray[Any]) -> None:
        content = values.tobytes()
        self._digest.update(content)
        self._file.write(content)

    def close(self) -> str:
        """Put the content on the disk and return its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        self._file.close()


class ShardWriter:
    """Writes tokens into a folder; a context manager, `finish` ends it.

    Args:
        folder: where; it is made, and must not be there.
        vocabulary_size: every token is below it; decides two or four bytes a token.
        tokenizer_digest: digest of the tokenizer.
        shard_tokens: tokens of one shard.
    """

    def __init__(
        self, folder: Path, *, vocabulary_size: int, tokenizer_digest: str, shard_tokens: int
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._vocabulary_size = vocabulary_size
        self._tokenizer_digest = tokenizer_digest
        self._shard_tokens = shard_tokens
        self._token_bytes = 2 if vocabulary_size <= _LARGEST_U16 else 4
        self._shards: list[dict[str, Any]] = []
        self._file: _File | None = None
        self._filled = 0
        self._begins: list[int] = []
        self._begins_next = False
        self._documents = 0
        self._utf8_bytes = 0

    def begin_document(self) -> None:
        """Note that the next token begins a document; one without tokens is none."""
        self._begins_next = True

    def append(self, tokens: npt.NDArray[np.int64], utf8_bytes: int) -> None:
        """Write tokens of the current document.

        Args:
            tokens: their ids.
            utf8_bytes: length of the text that they stand for.

        Raises:
            ValueError: a token is beyond the vocabulary.
        """
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._vocabulary_size:
            raise ValueError(f"a token is not below {self._vocabulary_size}")
        self._utf8_bytes += utf8_bytes
        small = tokens.astype(TOKEN_TYPES[self._token_bytes])
        while small.size:
            if self._filled == self._shard_tokens:
                self._end_shard()
            if self._file is None:
                self._file = _File(self._path("tokens"))
            if self._begins_next:
                self._begins.append(self._filled)
                self._documents += 1
                self._begins_next = False
            part = small[: self._shard_tokens - self._filled]
            self._file.write(part)
            self._filled += part.size
            small = small[part.size :]

    def _path(self, ending: str) -> Path:
        return self._folder / f"{shard_name(len(self._shards))}.{ending}"

    def _end_shard(self) -> None:
        if self._file is None:
            return
        documents = _File(self._path("documents"))
        documents.write(np.asarray(self._begins, dtype=BEGIN_TYPE))
        self._shards.append(
            {
                "name": shard_name(len(self._shards)),
                "tokens": self._filled,
                "documents": len(self._begins),
                "tokens_sha256": self._file.close(),
                "documents_sha256": documents.close(),
            }
        )
        self._file, self._filled, self._begins = None, 0, []

    def finish(self, sources: Sequence[dict[str, Any]]) -> None:
        """Write the last shard and then the manifest.

        Args:
            sources: what was read: name, sha256, bytes and role of each file.
        """
        self._end_shard()
        manifest = {
            "format": FORMAT,
            "tokenizer": self._tokenizer_digest,
            "vocabulary_size": self._vocabulary_size,
            "token_bytes": self._token_bytes,
            "shard_tokens": self._shard_tokens,
            "tokens": sum(shard["tokens"] for shard in self._shards),
            "documents": self._documents,
            "utf8_bytes": self._utf8_bytes,
            "sources": list(sources),
            "shards": self._shards,
        }
        manifest["digest"] = manifest_digest(manifest)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        with (self._folder / MANIFEST_FILE).open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.abandon()
            self._file = None
