"""Documents of a corpus, streamed: text, lines, JSONL, Parquet, TSV, CSV and directories.

In the format `text` a file is one document; in `lines` every line that is not blank is
one; elsewhere it is the field `data.text_field` of every record. A text file is read in
pieces, so that a corpus may be one file of any size.

It refuses empty files, NUL bytes, bytes that are not UTF-8, records without the field,
and a corpus without any text; errors name the file and the line and hold no text.

Held-out text: where no validation corpus is named, `Part` chooses which part of the
training corpus to give. A few text files are cut by position, the last share of each
file being held out (as nanoGPT does); documents and many text files are held out whole,
by a hash of their text, so that copies of one document land on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.data.files import DataFile, read_lines
from trainer.data.records import read_records
from trainer.data.text_pieces import cut_position, read_pieces
from trainer.errors import DataError
from trainer.recipe.schema import DataOptions

# From so many text files on, whole files are held out instead of the end of each.
MANY_FILES = 100


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """A document, or a piece of a long one.

    Attributes:
        text: what it says.
        file: where it is from.
        line: where it begins, from 1 (the row, in Parquet).
        begins: False where it goes on with the document before it.
    """

    text: str
    file: DataFile
    line: int
    begins: bool = True

    def __repr__(self) -> str:
        return f"Document({self.file.path}:{self.line}, {len(self.text)} characters)"


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a corpus to read.

    Attributes:
        fraction: share that is held out; 0 holds nothing out.
        held_out: give that share; otherwise give the rest.
    """

    fraction: float = 0.0
    held_out: bool = False

    def has(self, text: str) -> bool:
        """Return whether a document of this text belongs to the part."""
        if self.fraction == 0:
            return not self.held_out
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        below = int.from_bytes(digest, "big") < self.fraction * 2**64
        return below == self.held_out

    def range_of(self, file: DataFile) -> tuple[int, int]:
        """Return the bytes (begin, end) of a text file that belong to the part."""
        size = file.path.stat().st_size
        cut = cut_position(file.path, int(size * (1 - self.fraction)))
        return (cut, size) if self.held_out else (0, cut)


WHOLE = Part()


def documents_of(
    files: Sequence[DataFile], options: DataOptions, part: Part = WHOLE
) -> Iterator[Document]:
    """Yield the documents of files in their order.

    Args:
        files: as `files.find_files` gives them.
        options: fields and columns.
        part: which part of the corpus.

    Raises:
        DataError: as the module says.
    """
    by_position = sum(file.format == "text" for file in files) < MANY_FILES
    for file in files:
        if file.format == "text":
            yield from _text(file, part, by_position)
        else:
            yield from _records(file, options, part)


def _text(file: DataFile, part: Part, by_position: bool) -> Iterator[Document]:
    begin, end = part.range_of(file) if by_position else (0, None)
    begins = True
    for line, text in read_pieces(file.path, begin, end):
        if begins and not by_position and not part.has(text):
            return
        # Empty where the file is a byte order mark and nothing else.
        if text:
            yield Document(text, file, line, begins)
            begins = False


def _records(file: DataFile, options: DataOptions, part: Part) -> Iterator[Document]:
    found = False
    for line, text in _texts(file, options):
        if text.strip():
            _check_unicode(text, file, line)
            found = True
            if part.has(text):
                yield Document(text, file, line)
    if not found:
        raise DataError(f"{file.path}: there is no text in this file")


def _check_unicode(text: str, file: DataFile, line: int) -> None:
    """Refuse half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # Without the cause: it holds the text.
        raise DataError(
            f"{file.path}:{line}: the text holds half a surrogate pair (\\ud800 to \\udfff), "
            "which is no character"
        ) from None


def _texts(file: DataFile, options: DataOptions) -> Iterator[tuple[int, str]]:
    if file.format == "lines":
        yield from read_lines(file.path)
        return
    for record in read_records([file], options.columns, [options.text_field]):
        yield record.line, record.text(options.text_field)
