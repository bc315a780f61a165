"""Records of TSV, CSV, JSONL and Parquet files: named fields with their file and line.

TSV has no quoting: a field ends at a tab, as in GLUE's files. CSV has the quoting of
RFC 4180. Without `columns` the first line of either is the heading.

What it refuses: lines with another number of fields than the heading, headings with
a name twice, JSON lines that are not objects or no text in UTF-8, files that are not
Parquet.

Invariants:
- Files are streamed; no more than one line, or one Parquet batch, is in memory.
- Errors name the file and the line (the row, in Parquet), and hold no field's text,
  and no heading's either: without one, the first line is an example.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from trainer.data.files import MAX_LINE_BYTES, DataFile, read_lines
from trainer.errors import DataError

_PARQUET_BATCH_ROWS = 1024
# Keys of JSON objects may be data as well; what looks like a name is shown.
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
# Only an escape can spell half a surrogate pair in a line that is UTF-8.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD]")


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One row.

    Attributes:
        fields: values by name; strings in TSV and CSV, JSON values elsewhere.
        path: the file.
        line: the line it begins on, from 1 (the row, in Parquet).
        names_are_safe: whether errors may show names of fields; not those of a table's
            first line, which is an example where there is no heading.
    """

    fields: Mapping[str, Any]
    path: Path
    line: int
    names_are_safe: bool = True

    @property
    def where(self) -> str:
        """The place for error messages: "file:line"."""
        return f"{self.path}:{self.line}"

    def field(self, name: str) -> Any:
        """Return a field's value.

        Raises:
            DataError: the record has no such field, or it is null.
        """
        value = self.fields.get(name)
        if value is None:
            raise DataError(f"{self.where}: there is no field {name!r}; {self._names()}")
        return value

    def _names(self) -> str:
        if not self.names_are_safe:
            return (
                f"the first line was taken for a heading of {len(self.fields)} columns; if it is "
                "none, name them in data.columns, such as data.columns=text,label"
            )
        shown = [name for name in self.fields if _IDENTIFIER.fullmatch(name)]
        return f"this record has {', '.join(shown) or 'no field with an ordinary name'}"

    def text(self, name: str) -> str:
        """Return a field that must be a string.

        Raises:
            DataError: it is missing or something else.
        """
        value = self.field(name)
        if not isinstance(value, str):
            raise DataError(
                f"{self.where}: the field {name!r} is of type {type(value).__name__}, not a string"
            )
        return value


def read_records(
    files: Sequence[DataFile], columns: Sequence[str] = (), wanted: Sequence[str] = ()
) -> Iterator[Record]:
    """Yield the records of all files in order.

    Args:
        files: TSV, CSV, JSONL and Parquet files.
        columns: names of the columns of TSV and CSV files without a heading line.
        wanted: the fields that matter; Parquet reads no other column. Empty is all.

    Raises:
        DataError: as the module says; also for a file of text or lines, which has
            no fields.
    """
    for file in files:
        if file.format in ("tsv", "csv"):
            yield from _tabular(file, tuple(columns))
        elif file.format == "jsonl":
            yield from _jsonl(file.path)
        elif file.format == "parquet":
            yield from _parquet(file.path, wanted)
        else:
            raise DataError(
                f"{file.path}: plain text has no fields; labelled examples come from "
                "TSV, CSV, JSONL or Parquet files (set data.format if the name misleads)"
            )


def _tabular(file: DataFile, columns: tuple[str, ...]) -> Iterator[Record]:
    rows = _tsv_rows(file.path) if file.format == "tsv" else _csv_rows(file.path)
    names = columns or _heading(file.path, rows)
    for line, values in rows:
        if len(values) != len(names):
            source = "data.columns has" if columns else "the first line has"
            raise DataError(f"{file.path}:{line}: {len(values)} fields where {source} {len(names)}")
        yield Record(dict(zip(names, values, strict=True)), file.path, line, bool(columns))


def _heading(path: Path, rows: Iterator[tuple[int, list[str]]]) -> tuple[str, ...]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: the file holds blank lines only")
    names = tuple(first[1])
    if len(set(names)) != len(names):
        # The names are not repeated here: without a heading they are an example's text.
        raise DataError(
            f"{path}:{first[0]}: the heading has a name twice; a file without a heading "
            "line needs data.columns"
        )
    return names


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path):
        if line:
            yield number, line.split("\t")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    # The reader needs the line ends back: a quoted field may span lines.
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    begin = 1
    try:
        for values in reader:
            if values:
                yield begin, values
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: this is not CSV: {error}") from error


def _jsonl(path: Path) -> Iterator[Record]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        # ValueError also stands for numbers of thousands of digits.
        except (ValueError, RecursionError) as error:
            column = getattr(error, "colno", 1)
            # Without the cause: it holds the whole line.
            raise DataError(f"{path}:{number}: no valid JSON at column {column}") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: a JSON {type(value).__name__}, not an object")
        if _SURROGATE_ESCAPE.search(line) and not _is_text(value):
            raise DataError(
                f"{path}:{number}: an escape spells half a surrogate pair (\\ud800 to \\udfff), "
                "which is no text; repair the program that wrote the file"
            ) from None
        yield Record(value, path, number)


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            columns = [name for name in present if name in wanted] if wanted else present
            texts = [name for name in columns if _is_bytes(file.schema_arrow.field(name).type)]
        # Texts that repeat stay one text: a few bytes can stand for gigabytes of them.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=columns):
                for index in range(batch.num_rows):
                    row += 1
                    fields = {
                        name: _value(batch.column(name)[index], path, row) for name in columns
                    }
                    yield Record(fields, path, row)
    # Without the cause: it may hold the text that could not be decoded.
    except (pyarrow.ArrowException, OSError, ValueError):
        raise DataError(f"{path}: cannot be read as Parquet after row {row}") from None


def _is_bytes(kind: Any) -> bool:
    kinds = pyarrow.types
    return bool(kinds.is_string(kind) or kinds.is_binary(kind))


def _value(scalar: Any, path: Path, row: int) -> Any:
    """Return one field, unless it is larger than a line may be.

    Raises:
        DataError: it is.
    """
    value = scalar.as_py()
    if isinstance(value, str | bytes) and len(value) > MAX_LINE_BYTES:
        raise DataError(f"{path}: row {row} holds more than {MAX_LINE_BYTES} bytes in a field")
    return value
