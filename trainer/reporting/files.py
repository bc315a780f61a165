"""Small files that are there whole or not at all, or that only their owner reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PRIVATE_FOLDER: Final = 0o700
_PRIVATE_MASK: Final = 0o077


@contextmanager
def owner_only_files() -> Iterator[None]:
    """Make every file that this process creates meanwhile, in any thread, its owner's alone."""
    before = os.umask(_PRIVATE_MASK)
    try:
        yield
    finally:
        os.umask(before)


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 file under another name, sync it and rename it.

    Raises:
        OSError: it could not be written; what was there before stays.
    """
    partial = path.with_name(path.name + ".partial")
    # What lies under that name is of a run that was killed, or a trap: neither is written to.
    partial.unlink(missing_ok=True)
    with partial.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
