"""Files that must survive a power cut: written, flushed, digested.

Durability: `write_durably` returns after the bytes are on the disk; the name is there
for good only after `flush_folder` of the folder that holds it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and flush it.

    Raises:
        OSError: it exists, or cannot be written.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Flush what somebody else wrote."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_folder(folder: Path) -> None:
    """Flush a folder: the names in it, after creating, renaming or removing some."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
