"""The few file operations that the store is built from, behind a Protocol.

The store decides; this does. Keeping the steps few and named lets a test stop the
world before, in the middle of and after each one (tests/store/crashing.py).

Durability: nothing is durable until `sync_file` (contents) and `sync_folder`
(names) have returned. `rename` is atomic but durable only after `sync_folder` of
the parent. Ordering between unsynced steps is undefined. Every method raises
OSError as the system call did. Not thread safe; the store serialises its calls.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

FOLDER_MODE = 0o755
FILE_MODE = 0o644


class Filesystem(Protocol):
    """What the store needs of a file system."""

    def make_folder(self, path: Path) -> None:
        """Create one folder; fails when it exists."""
        ...

    def create(self, path: Path) -> int:
        """Create a file that must not exist; return a descriptor for writing at its end."""
        ...

    def open_append(self, path: Path) -> int:
        """Open an existing file for reading and for writing at its end."""
        ...

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`; on an error any prefix of it may have been written."""
        ...

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut the file to `size_bytes`."""
        ...

    def sync_file(self, descriptor: int) -> None:
        """Make the file's contents and size durable."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Move a folder to a name that is free."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all below it; may leave a part when it fails."""
        ...

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        ...


class RealFilesystem:
    """The operating system's."""

    def make_folder(self, path: Path) -> None:
        """See `Filesystem`."""
        path.mkdir(mode=FOLDER_MODE)

    def create(self, path: Path) -> int:
        """See `Filesystem`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, FILE_MODE)

    def open_append(self, path: Path) -> int:
        """See `Filesystem`."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes) -> None:
        """See `Filesystem`."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """See `Filesystem`."""
        os.ftruncate(descriptor, size_bytes)

    def sync_file(self, descriptor: int) -> None:
        """See `Filesystem`."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """See `Filesystem`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """See `Filesystem`."""
        source.rename(target)

    def remove_tree(self, path: Path) -> None:
        """See `Filesystem`."""
        shutil.rmtree(path)

    def close(self, descriptor: int) -> None:
        """See `Filesystem`."""
        os.close(descriptor)
