"""The file system as the log sees it: a Protocol that states what is durable when.

Names are relative to the log's folder, with "/" between parts. Everything that
can fail raises OSError; nothing here retries. Tests use an implementation in
memory that can fail or crash before, in and after each step.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

from security.errors import AuditError

LOCK_NAME = "lock"
STAGING = "staging"
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750


class AppendFile(Protocol):
    """A file that only grows. Used by one thread at a time."""

    def append(self, data: bytes) -> None:
        """Add bytes at the end. Until `sync` returns, any part of them may be lost."""
        ...

    def sync(self) -> None:
        """Make all appended bytes durable.

        If this raises, what the disk holds is unknown, and calling it again proves
        nothing: the kernel may have dropped the pages that it could not write.
        """
        ...

    def close(self) -> None:
        """Close the file, without making anything durable."""
        ...


class Files(Protocol):
    """One folder. Calls may come from several threads, for different names."""

    def read(self, name: str) -> bytes:
        """Return the content; FileNotFoundError if there is no such file."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the plain files in a folder; [] if it does not exist."""
        ...

    def write_synced(self, name: str, data: bytes) -> None:
        """Write a file whole, in a folder that is made if missing.

        When this returns the file's *content* is durable, its name is not.
        """
        ...

    def rename(self, source: str, target: str) -> None:
        """Put a file in the place of another, atomically; durable after `sync_folder`.

        Missing folders of the target are made, and their own names are durable on return.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file; durable after `sync_folder`."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Remove an empty folder; nothing happens if it does not exist."""
        ...

    def sync_folder(self, folder: str) -> None:
        """Make the names in a folder durable."""
        ...

    def open_append(self, name: str) -> AppendFile:
        """Open an existing file for appending."""
        ...


class RealFiles:
    """`Files` on Linux: fdatasync for content, fsync for folders, renames for atomicity."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        """See `Files.read`."""
        return (self._folder / name).read_bytes()

    def names(self, folder: str) -> list[str]:
        """See `Files.names`."""
        try:
            with os.scandir(self._folder / folder) as found:
                return sorted(item.name for item in found if item.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def write_synced(self, name: str, data: bytes) -> None:
        """See `Files.write_synced`."""
        path = self._folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, _FILE_MODE)
        except FileNotFoundError:
            _make_folder(path.parent)
            descriptor = os.open(path, flags, _FILE_MODE)
        try:
            _write_all(descriptor, data)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """See `Files.rename`."""
        path = self._folder / target
        try:
            (self._folder / source).replace(path)
        except FileNotFoundError:
            _make_folder(path.parent)
            (self._folder / source).replace(path)

    def remove(self, name: str) -> None:
        """See `Files.remove`."""
        (self._folder / name).unlink()

    def remove_folder(self, folder: str) -> None:
        """See `Files.remove_folder`."""
        try:
            (self._folder / folder).rmdir()
        except FileNotFoundError:
            return

    def sync_folder(self, folder: str) -> None:
        """See `Files.sync_folder`."""
        _sync_folder(self._folder / folder)

    def open_append(self, name: str) -> AppendFile:
        """See `Files.open_append`."""
        return _RealAppendFile(self._folder / name)


class _RealAppendFile:
    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags)

    def append(self, data: bytes) -> None:
        _write_all(self._descriptor, data)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FolderLock:
    """An exclusive lock on a log's folder, for as long as the object is open.

    The kernel drops it when the process ends, however it ends.

    Raises:
        AuditError: another process has the log open.
    """

    def __init__(self, folder: Path) -> None:
        _make_folder(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(folder / LOCK_NAME, flags, _FILE_MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise AuditError(
                f"the audit log {folder} is open in another process; only one may write it"
            ) from error

    def release(self) -> None:
        """Give the lock back; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def replace_file(files: Files, name: str, data: bytes) -> None:
    """Give a file new content, durably and atomically: a reader sees the old or the new.

    1. The content becomes durable under a temporary name. If we crash here, the
       temporary file is left over, and recovery removes it.
    2. The rename. If we crash here, the old or the new file is there, whole.
    3. The name becomes durable.
    """
    place_file(files, name, data)
    files.sync_folder(folder_of(name))


def place_file(files: Files, name: str, data: bytes) -> None:
    """Do steps 1 and 2 of `replace_file`; several files can then share step 3."""
    temporary = f"{STAGING}/{name.replace('/', '_')}"
    files.write_synced(temporary, data)
    files.rename(temporary, name)


def folder_of(name: str) -> str:
    """Return the folder part of a name, "" for the log's own folder."""
    return name.rpartition("/")[0]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _make_folder(path: Path) -> None:
    """Make a folder and those above it; their names are durable on return.

    Without that a power cut could take away a whole new log, flushed entries and all.
    """
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
