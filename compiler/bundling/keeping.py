"""Finished files of a work folder, known again by their digests when work is taken up.

A name says that a file was finished, not that it is still what was finished: a disk that was
full, a copy of the folder or a hand may have changed it. So each has its SHA-256 beside it,
and one that has another, or none, is made anew.

This finds damage. Whoever may write into the folder can change a file and its digest alike;
that nobody else may is workfolder.py's part.
"""

from __future__ import annotations

from pathlib import Path

from compiler.errors import SourceError
from compiler.files import digest_of, read_text
from security.files import PRIVATE_MODE, write_atomic

_HEX_DIGITS = 64


def keep(path: Path) -> None:
    """Write down what a finished file is.

    Raises:
        SourceError: it cannot be read.
        OSError: the disk is full.
    """
    write_atomic(_beside(path), digest_of(path).encode(), mode=PRIVATE_MODE)


def is_kept(path: Path, sha256: str | None = None) -> bool:
    """Tell whether a file is there and is what was written down of it.

    Args:
        path: the file.
        sha256: what it must be besides, where that is known from elsewhere.
    """
    try:
        written = read_text(_beside(path), _HEX_DIGITS)
        return sha256 in (None, written) and digest_of(path) == written
    except SourceError:
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")
