"""Read what a model directory holds: regular files of its own, bounded, typed JSON.

A model directory comes from strangers as a model file does, and what is read of it may go
into a bundle that others see. So a file of it may be a symbolic link only if that leads to a
file of the same directory, or of the blobs that Hugging Face's cache keeps for it
(`models--NAME/snapshots/REVISION/FILE -> ../../blobs/DIGEST`). That is checked on the
descriptor which is then read. Nothing is read beyond its bound, and every value that is taken
from JSON is asked for with its type.

A file that whoever runs the compiler named is another matter: ANYWHERE lets its links lead
where they like.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, TypeVar

from compiler.errors import SourceError

MAX_CONFIG_BYTES = 4 << 20
MAX_TOKENIZER_BYTES = 64 << 20
ANYWHERE: Final = Path("/")

# https://huggingface.co/docs/huggingface_hub/guides/manage-cache
_CACHED, _SNAPSHOTS, _BLOBS = "models--", "snapshots", "blobs"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")

PICKLED: Final = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE)

T = TypeVar("T", int, float, str, bool)


@contextmanager
def open_regular(path: Path, root: Path | None = None) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Args:
        path: the file.
        root: the folder that it must lie in, links followed; None for the folder in its name,
            ANYWHERE for a file that the user named.

    Raises:
        SourceError: it is not there, no regular file, a link that leads out of `root`, or
            cannot be opened.
    """
    root = path.parent if root is None else root
    try:
        if not path.is_file():
            raise SourceError(f"{path}: there is no such file")
        found = path.resolve(strict=True)
        _require_inside(found, path, root)
        # Whatever is put in its place now: no link is followed, and no pipe waited for.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        file = os.fdopen(os.open(found, flags), "rb")
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path}: cannot be read: {_reason(error)}") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SourceError(f"{path}: there is no such file")
        # A folder on the way may have been swapped for a link since it was resolved.
        _require_inside(Path(f"/proc/self/fd/{file.fileno()}").readlink(), path, root)
        yield file


def _require_inside(found: Path, path: Path, root: Path) -> None:
    """Refuse a file that lies neither in a folder nor in the cache that the folder is part of.

    Args:
        found: where the file really lies, without links.
        path: as it was asked for, for the error.
        root: the folder.
    """
    inside = root.resolve()
    if found.is_relative_to(inside):
        return
    for revision in (inside, *inside.parents):
        cache = revision.parent.parent
        if revision.parent.name == _SNAPSHOTS and cache.name.startswith(_CACHED):
            if found.parent == cache / _BLOBS:
                return
            break
    raise SourceError(
        f"{path}: is a link that leads out of its folder, which could bring a file of yours into "
        "the bundle; put the file itself there"
    )


def _reason(error: OSError | RuntimeError) -> str:
    # A loop of links is a RuntimeError of pathlib's.
    return (isinstance(error, OSError) and error.strerror) or "its links lead in a circle"


def digest_of(path: Path, root: Path | None = None) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        SourceError: as `open_regular`.
    """
    with open_regular(path, root) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def pickle_hint(folder: Path) -> str:
    """Return what to add to "there are no weights" where there are pickled ones, or nothing."""
    names = sorted(entry.name for entry in folder.iterdir() if PICKLED.fullmatch(entry.name))
    if not names:
        return ""
    return (
        f", only {', '.join(names[:4])}: pickled weights can run code when they are read and are "
        "never opened; convert them to safetensors"
    )


def read_bytes(path: Path, max_bytes: int, root: Path | None = None) -> bytes:
    """Return a file of at most `max_bytes`; `root` as for `open_regular`.

    Raises:
        SourceError: missing, not a regular file, a link out of `root`, unreadable or too large.
    """
    with open_regular(path, root) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise SourceError(f"{path}: is larger than the {max_bytes} bytes allowed for it")
    return data


def read_text(path: Path, max_bytes: int = MAX_CONFIG_BYTES, root: Path | None = None) -> str:
    """Return a file as UTF-8 text without a NUL; `root` as for `open_regular`."""
    try:
        text = read_bytes(path, max_bytes, root).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text") from error
    if "\0" in text:
        raise SourceError(f"{path}: holds a NUL character")
    return text


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES, root: Path | None = None) -> Any:
    """Return the JSON value in a file; `root` as for `open_regular`.

    Half of a surrogate pair, which JSON can escape and UTF-8 cannot write, is refused.
    """
    text = read_text(path, max_bytes, root)
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: is not valid JSON") from error
    return value


class Settings:
    """A JSON object in a file, asked for one typed value at a time."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        value = read_json(path, root=root)
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
