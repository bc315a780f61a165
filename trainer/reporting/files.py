"""Small files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


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
