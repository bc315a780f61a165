"""Copy a model file into a new bundle, with its progress told and its digest looked at."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from compiler.bundling.plan import Report
from compiler.errors import SourceError

_CHUNK_BYTES = 8 << 20


def copy_file(source: Path, target: Path, report: Report, *, sha256: str | None = None) -> None:
    """Copy `source` to the new file `target` and flush it.

    Args:
        source: the file.
        target: the copy; nobody may use it after an error.
        report: is told how far it is.
        sha256: digest that the file must have; None takes any.

    Raises:
        SourceError: the source cannot be read, or has another digest.
        OSError: the target cannot be written, for instance because the disk is full.
    """
    try:
        reading = source.open("rb")
    except OSError as error:
        raise SourceError(f"{source}: cannot be read: {error.strerror}") from error
    with reading, target.open("xb") as writing:
        size = os.fstat(reading.fileno()).st_size
        done, digest = 0, hashlib.sha256()
        while chunk := reading.read(_CHUNK_BYTES):
            writing.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            report(f"copying {source.name}: {100 * done // max(size, 1)}%")
        writing.flush()
        os.fsync(writing.fileno())
    if sha256 not in (None, digest.hexdigest()):
        raise SourceError(f"{source}: changed while it was compiled; start again")


def write_file(target: Path, data: bytes) -> None:
    """Write the new file `target` and flush it."""
    with target.open("xb") as writing:
        writing.write(data)
        writing.flush()
        os.fsync(writing.fileno())
