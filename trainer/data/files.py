"""Files of a corpus: finding them, knowing their format, reading their lines.

What it refuses: a path that is not there, a directory without data files, a name
whose format it cannot tell, an empty file, bytes that are not UTF-8, NUL bytes
(binary files), and lines beyond MAX_LINE_BYTES.

Invariants:
- The order of the files depends on their names alone, never on the file system.
- A file is streamed; no more than one line of it is in memory.
- Errors name the file and the line, and hold nothing of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import DataError

# A line is held in memory whole; a binary file without newlines must not fill it.
MAX_LINE_BYTES = 64 * 1024 * 1024

_SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "tsv",
    ".csv": "csv",
}
_READ_CHUNK_BYTES = 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file to read.

    Attributes:
        path: where it is.
        format: text, lines, jsonl, parquet, tsv or csv.
    """

    path: Path
    format: str


def find_files(paths: Sequence[str], format: str = "auto") -> list[DataFile]:
    """Return the files that `paths` name, directories searched recursively by name.

    In a directory, hidden files and symbolic links are skipped (a folder of data means
    what lies in it), and with format "auto" so are files of other kinds (a README beside
    the data); a file that is named itself must be of a known kind.

    Raises:
        DataError: a path does not exist, a directory holds no data file, or the
            format of a named file is unknown.
    """
    if not paths:
        raise DataError("no file is named to read from; give at least one file or directory")
    found: list[DataFile] = []
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            found.extend(_in_folder(path, format))
        elif path.is_file():
            found.append(DataFile(path, _format_of(path, format)))
        else:
            raise DataError(f"{path}: there is no such file or directory")
    return found


def _in_folder(folder: Path, format: str) -> list[DataFile]:
    inside = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    visible = [
        path
        for path in inside
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (format != "auto" or path.suffix.lower() in _SUFFIXES)
    ]
    if not visible:
        raise DataError(
            f"{folder}: this directory holds no data file; expected names ending in "
            f"{', '.join(_SUFFIXES)}, or set data.format"
        )
    return [DataFile(path, _format_of(path, format)) for path in visible]


def _format_of(path: Path, format: str) -> str:
    if format != "auto":
        return format
    known = _SUFFIXES.get(path.suffix.lower())
    if known is None:
        raise DataError(
            f"{path}: the name does not tell the format; set data.format to text, lines, "
            "jsonl, parquet, tsv or csv"
        )
    return known


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 file.

    Lines end at "\\n" or "\\r\\n" only, so that numbers agree with what editors show;
    a byte order mark at the beginning is dropped.

    Raises:
        DataError: the file is empty, unreadable, binary, badly encoded, or a line
            is longer than MAX_LINE_BYTES; the message names the line.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                yield number, _decode(path, number, line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if number == 0:
        raise DataError(f"{path}: the file is empty")


def _decode(path: Path, number: int, line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"{path}:{number}: a line longer than {MAX_LINE_BYTES} bytes")
    if b"\0" in line:
        raise DataError(
            f"{path}:{number}: a NUL byte at byte {line.index(0) + 1} of the line; "
            "this is a binary file, or text in UTF-16: convert it to UTF-8"
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        # Without the cause: its message and its arguments hold the bytes of the line.
        raise DataError(
            f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; "
            "convert the file to UTF-8"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def describe_file(path: Path, role: str) -> dict[str, str | int]:
    """Return what training.json records of a source: name, sha256, bytes, role.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return {"name": path.name, "sha256": digest.hexdigest(), "bytes": size, "role": role}
