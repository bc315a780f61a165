"""Write a file beside its place and move it there when it is whole.

A job's child writes to the path it is given; when anything fails, the parent removes what
the child left, also after the child was killed.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from compiler.errors import SourceError


@contextlib.contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `out` at the end, or goes when the block fails.

    Raises:
        SourceError: `out` exists already, or its folder does not.
        OSError: the file cannot be moved to its place.
    """
    if out.exists():
        raise SourceError(f"{out}: exists already; remove it or choose another name")
    if not out.parent.is_dir():
        raise SourceError(f"{out.parent}: is no directory to write to")
    path = out.parent.resolve() / f".{out.name}.{secrets.token_hex(4)}.part"
    try:
        yield path
        path.replace(out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
