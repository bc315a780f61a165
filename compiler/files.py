"""Read what a model directory holds: bounded, regular files only, strict JSON.

A model directory comes from strangers as a model file does. Nothing here follows a
symbolic link for a small file, reads more than its bound, or lets JSON surprise the
caller: every value that is taken from it is asked for with its type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from compiler.errors import SourceError

MAX_CONFIG_BYTES = 4 << 20
MAX_TOKENIZER_BYTES = 64 << 20

PICKLED: Final = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE)

T = TypeVar("T", int, float, str, bool)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        SourceError: it is not there, no regular file, or cannot be opened.
    """
    try:
        if not path.is_file():
            raise SourceError(f"{path}: there is no such file")
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


def pickle_hint(folder: Path) -> str:
    """Return what to add to "there are no weights" where there are pickled ones, or nothing."""
    names = sorted(entry.name for entry in folder.iterdir() if PICKLED.fullmatch(entry.name))
    if not names:
        return ""
    return (
        f", only {', '.join(names[:4])}: pickled weights can run code when they are read and are "
        "never opened; convert them to safetensors"
    )


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return a file of at most `max_bytes`.

    Raises:
        SourceError: missing, not a regular file, unreadable or too large.
    """
    try:
        if not path.is_file():
            raise SourceError(f"{path}: there is no such file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise SourceError(f"{path}: is larger than the {max_bytes} bytes allowed for it")
    return data


def read_text(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """Return a file as UTF-8 text without a NUL."""
    try:
        text = read_bytes(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text") from error
    if "\0" in text:
        raise SourceError(f"{path}: holds a NUL character")
    return text


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> Any:
    """Return the JSON value in a file."""
    try:
        return json.loads(read_text(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: is not valid JSON") from error


class Settings:
    """A JSON object in a file, asked for one typed value at a time."""

    def __init__(self, path: Path) -> None:
        value = read_json(path)
        if not isinstance(value, dict):
            raise SourceError(f"{path}: is not a JSON object")
        self.path = path
        self._values = value

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, name: str, kind: type[T], default: T | None = None) -> T:
        """Return the value called `name`; without a default it must be there.

        Raises:
            SourceError: missing or of another type. A flag is no number here.
        """
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise SourceError(f"{self.path}: needs {name!r} as a {kind.__name__}")
        return value

    def raw(self, name: str) -> Any:
        """Return the value called `name` as it stands, or None."""
        return self._values.get(name)
