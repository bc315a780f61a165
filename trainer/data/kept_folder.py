"""Folders of prepared data that are kept for the next run: made whole, swept, and not
believed where another user may have written them.

What lies in a cache becomes the data that a model learns from, and its digests lie beside
it, so that they say nothing against whoever may write there. So a kept folder is refused
unless it, and all in it, belongs to this user (or root) and nobody else may write it. A
folder that others cannot enter may hold files of any mode.

A folder is built beside its place, under a lock that lives as long as the process, and
renamed when whole. What a killed process left is swept by whoever comes next: nobody holds
its lock any more. A leftover without a lock is swept when it is a day old.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trainer.errors import DataError

_LOCK: Final = ".lock"
_PARTIAL: Final = ".partial-"
# A leftover has this name until its lock is held.
_UNLOCKED: Final = ".making-"
_OLD_SECONDS: Final = 86_400
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
_ENTERED: Final = stat.S_IXGRP | stat.S_IXOTH


def require_own(place: Path) -> None:
    """Refuse a kept folder that another user may have written.

    Raises:
        DataError: naming what is not this user's alone, and what to do.
    """
    owners = {os.geteuid(), 0, *_owner_of_new(place.parent)}
    top = place.lstat()
    if not stat.S_ISDIR(top.st_mode):
        raise _not_own(place, place, "is no folder")
    # Nobody else comes past a folder that is closed.
    open_to_others = bool(top.st_mode & _ENTERED)
    for path in (place, *place.rglob("*")):
        found = path.lstat()
        if found.st_uid not in owners:
            raise _not_own(place, path, "belongs to another user")
        if stat.S_ISLNK(found.st_mode):
            raise _not_own(place, path, "is a link")
        if found.st_mode & _WRITABLE and (open_to_others or path == place):
            raise _not_own(place, path, "may be written by other users")


def _not_own(place: Path, path: Path, what: str) -> DataError:
    return DataError(
        f"{path} {what}, so that nobody can say what is learned from there; take a folder of "
        f"your own (data.cache), or delete {place} and run again: it is made anew"
    )


def _owner_of_new(folder: Path) -> tuple[int, ...]:
    """Return who new files here belong to: not this user on some network file systems."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return (os.fstat(probe.fileno()).st_uid,)
    except OSError:
        return ()


@contextmanager
def building(place: Path) -> Iterator[Path]:
    """Give a folder to build `place` in; rename it there at the end (`put`).

    Whatever is left in it when the context ends is removed.
    """
    base = place.parent
    base.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f"{_UNLOCKED}{place.name}-", dir=base))
    lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under the name that is swept only now that the lock is held.
        partial = base / f"{place.name}{_PARTIAL}{hidden.name.rpartition('-')[2]}"
        hidden.rename(partial)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def put(partial: Path, place: Path) -> None:
    """Put a folder that is whole in its place; of several that do, the first one counts.

    Raises:
        OSError: the disk refused it.
    """
    (partial / _LOCK).unlink()
    try:
        partial.rename(place)
    except OSError:
        # Another rank was first, and what it made is the same.
        if not place.is_dir():
            raise


def sweep(base: Path) -> None:
    """Remove what killed processes left in a folder of kept folders."""
    leftovers = [*base.glob(f"*{_PARTIAL}*"), *base.glob(f"{_UNLOCKED}*")]
    for leftover in leftovers:
        try:
            found = leftover.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                _sweep_one(leftover, found.st_mtime)
        except OSError:
            # Somebody else sweeps, or may and we may not: it is only a leftover.
            continue


def _sweep_one(leftover: Path, changed: float) -> None:
    try:
        lock = os.open(leftover / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - changed > _OLD_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old = time.time() - changed > _OLD_SECONDS
        if old or not leftover.name.startswith(_UNLOCKED):
            shutil.rmtree(leftover, ignore_errors=True)
    finally:
        os.close(lock)
