"""Records of text as tokens: one document a row, never two, none in two rows.

This is what private training learns from: the unit that a claim protects has to be one
row. What is longer than a row is cut; nothing of it appears elsewhere.

It refuses what makes no token at all in any record; a record of fewer tokens than are
needed to learn from it is left out and counted.

Invariant: a row depends on its own document alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.columns import ColumnBuilder, PiecesColumn
from trainer.data.files import DataFile
from trainer.data.pieces import Pieces
from trainer.data.sources import WHOLE, Document, Part, documents_of
from trainer.data.tokenization import Tokenizer
from trainer.errors import DataError
from trainer.recipe.schema import DataOptions

_CHUNK_DOCUMENTS = 1024
_CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class RecordTable:
    """Records as arrays.

    Attributes:
        texts: tokens of each record without special ones; of a long one, its beginning.
        lines: i64[N], where each begins in its file.
        files: i32[N], index into `paths`.
        paths: the files.
        truncated: records that were cut.
        left_out: records with too few tokens.
        utf8_bytes: of the text that the tokens stand for.
    """

    texts: PiecesColumn
    lines: NDArray[np.int64]
    files: NDArray[np.int32]
    paths: tuple[Path, ...]
    truncated: int = 0
    left_out: int = 0
    utf8_bytes: float = 0.0

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, index: int) -> str:
        """Return "file:line" of a record."""
        return f"{self.paths[self.files[index]]}:{self.lines[index]}"


def read_table(
    files: Sequence[DataFile],
    options: DataOptions,
    tokenizer: Tokenizer,
    *,
    room: int,
    fewest: int,
    part: Part = WHOLE,
    progress: Callable[[str], None] | None = None,
) -> RecordTable:
    """Return the documents of files as records.

    Args:
        files: as `files.find_files` gives them.
        options: fields and columns.
        tokenizer: makes the tokens.
        room: tokens that are kept of a record.
        fewest: records with fewer tokens are left out.
        part: which part of the corpus.
        progress: is told how many records are done.

    Raises:
        DataError: a file cannot be read, or no record is left.
    """
    builder = _Builder(tuple(dict.fromkeys(file.path for file in files)), room, fewest)
    for chunk in _chunks(documents_of(files, options, part)):
        encoded = tokenizer.encode_batch([document.text for document in chunk])
        for document, ids in zip(chunk, encoded, strict=True):
            builder.add(document, ids)
        if progress is not None:
            progress(f"tokenized {len(builder)} records")
    table = builder.build()
    if len(table) == 0:
        names = ", ".join(str(file.path) for file in files[:3])
        raise DataError(
            f"{names}: no record of at least {fewest} tokens; is the tokenizer made for this text?"
        )
    return table


def table_of(rows: Iterable[NDArray[np.int64]], place: Path) -> RecordTable:
    """Return token rows as records that stand line by line in `place`."""
    column = ColumnBuilder()
    count = 0
    for ids in rows:
        column.append(Pieces(ids, np.zeros(ids.size, dtype=np.uint8)))
        count += 1
    return RecordTable(
        column.build(), np.arange(1, count + 1), np.zeros(count, dtype=np.int32), (place,)
    )


class _Builder:
    """Collects records; a document may come in several pieces."""

    def __init__(self, paths: tuple[Path, ...], room: int, fewest: int) -> None:
        self._paths = paths
        self._numbers = {path: number for number, path in enumerate(paths)}
        self._room = room
        self._fewest = fewest
        self._column = ColumnBuilder()
        self._lines = array("q")
        self._files = array("i")
        self._truncated = self._left_out = 0
        self._utf8_bytes = 0.0
        self._first: Document | None = None
        self._ids: list[NDArray[np.int64]] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, document: Document, ids: NDArray[np.int64]) -> None:
        """Take the next document, or the next piece of the one before."""
        if document.begins:
            self._finish()
            self._first = document
        if self._size < self._room and ids.size:
            # Of text that is cut, the share that its tokens stand for.
            share = min(1.0, (self._room - self._size) / ids.size)
            self._utf8_bytes += share * len(document.text.encode())
            self._ids.append(ids[: self._room - self._size])
        self._size += ids.size

    def build(self) -> RecordTable:
        self._finish()
        return RecordTable(
            self._column.build(),
            np.frombuffer(self._lines, dtype=np.int64),
            np.frombuffer(self._files, dtype=np.int32),
            self._paths,
            self._truncated,
            self._left_out,
            self._utf8_bytes,
        )

    def _finish(self) -> None:
        first, size = self._first, self._size
        kept = np.concatenate(self._ids) if self._ids else np.empty(0, dtype=np.int64)
        self._first, self._ids, self._size = None, [], 0
        if first is None:
            return
        if size < self._fewest:
            self._left_out += 1
            return
        self._truncated += size > self._room
        self._column.append(Pieces(kept, np.zeros(kept.size, dtype=np.uint8)))
        self._lines.append(first.line)
        self._files.append(self._numbers[first.file.path])


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text)
        if len(chunk) == _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
