"""Copy a model file into a new bundle, with its progress told."""

from __future__ import annotations

import os
from pathlib import Path

from compiler.bundling.plan import Report
from compiler.errors import SourceError

_CHUNK_BYTES = 8 << 20


def copy_file(source: Path, target: Path, report: Report) -> None:
    """Copy `source` to the new file `target` and flush it.

    Raises:
        SourceError: the source cannot be read.
        OSError: the target cannot be written, for instance because the disk is full.
    """
    try:
        reading = source.open("rb")
    except OSError as error:
        raise SourceError(f"{source}: cannot be read: {error.strerror}") from error
    with reading, target.open("xb") as writing:
        size = os.fstat(reading.fileno()).st_size
        done = 0
        while chunk := reading.read(_CHUNK_BYTES):
            writing.write(chunk)
            done += len(chunk)
            report(f"copying {source.name}: {100 * done // max(size, 1)}%")
        writing.flush()
        os.fsync(writing.fileno())


def write_file(target: Path, data: bytes) -> None:
    """Write the new file `target` and flush it."""
    with target.open("xb") as writing:
        writing.write(data)
        writing.flush()
        os.fsync(writing.fileno())
