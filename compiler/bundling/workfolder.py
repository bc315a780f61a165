"""The folder in which a compilation works, kept when it is cut short and taken up again.

It lies beside the output, hidden, and belongs to one source in one state: its key is a digest
over the source's files and what decides the result. The same command run again finds what was
finished; another source, or another version, begins anew. It is removed when the bundle is
there.

Invariants: what has its final name in it is whole (whoever writes there writes beside and
renames); only one process works in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compiler.errors import SourceError
from security.files import write_atomic
from security.strictjson import JsonValue, canonical

_KEY_FILE: Final = "key"
_LOCK_FILE: Final = ".lock"


@contextmanager
def work_folder(path: Path, decides: Mapping[str, JsonValue]) -> Iterator[Path]:
    """Yield the folder at `path`, empty unless it belongs to the same work; remove it at the end.

    After an error or an interruption it stays.

    Args:
        path: where; its parent must exist.
        decides: all that decides what is made in it.

    Raises:
        SourceError: another process works in it, or something else lies there.
        OSError: it cannot be written.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise SourceError(f"{path}: is in the way of the folder to work in")
    path.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SourceError(f"{path}: another compilation works here; wait for it") from error
        key = hashlib.sha256(canonical(dict(decides))).hexdigest().encode()
        if not _holds(path / _KEY_FILE, key):
            _empty(path)
            write_atomic(path / _KEY_FILE, key, mode=0o600)
        yield path
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def is_resumed(path: Path) -> bool:
    """Tell whether a folder was left by work that did not end."""
    return (path / _KEY_FILE).is_file()


def _holds(file: Path, key: bytes) -> bool:
    try:
        return file.read_bytes() == key
    except OSError:
        return False


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == _LOCK_FILE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
