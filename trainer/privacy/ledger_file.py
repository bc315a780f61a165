"""The file of a ledger: held by one process, appended to, flushed before anybody goes on.

Durability: `append` returns after the bytes are flushed to the disk. If the disk refuses,
the file takes no more: what a failed flush left is unknown, and a second flush that
succeeds proves nothing.
Concurrency: `hold` takes a lock (flock) that the kernel lets go of however the process
ends. On a network file system without such locks, holding is refused or means nothing:
keep ledgers on a local disk.

What it refuses: links to other files, files that changed while they were held.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from trainer.checkpointing.files import flush_folder, write_durably
from trainer.privacy.errors import LedgerError

# Over a million charges; a ledger that reaches it is no longer checked in seconds.
MAX_LEDGER_BYTES: Final = 256 << 20
_CLOSED: Final = -1


class LedgerFile:
    """A ledger's file, open and locked; made by `hold`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size_bytes = 0
        self._broken = ""

    @classmethod
    def hold(cls, path: Path) -> LedgerFile:
        """Open a file and lock it.

        Raises:
            LedgerError: it is missing, no regular file, or held by another process.
        """
        descriptor = _open(path, os.O_RDWR | os.O_APPEND)
        try:
            _lock(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def read(self) -> bytes:
        """Return all of it; what is appended from now on must follow just that."""
        data = _read(self._descriptor, self.path)
        self._size_bytes = len(data)
        return data

    def append(self, data: bytes) -> None:
        """Append bytes and flush them to the disk.

        Raises:
            LedgerError: the file was replaced or changed by others, is full or closed, or
                the disk refused. After a failure it takes no more.
        """
        if self._descriptor == _CLOSED:
            raise LedgerError(f"the ledger {self.path} is closed")
        if self._broken:
            raise LedgerError(self._broken)
        # 1. The file at this path is still the one that was verified, as it was left.
        self._check_untouched()
        if self._size_bytes + len(data) > MAX_LEDGER_BYTES:
            raise LedgerError(f"{self.path} is full: {MAX_LEDGER_BYTES} bytes")
        # 2. Until the flush is over, what is on the disk is unknown.
        self._broken = (
            f"an earlier write to the ledger {self.path} failed, so what it holds is unknown; "
            "continue the run, which reads it anew"
        )
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise LedgerError(
                f"cannot write the ledger {self.path}: {error.strerror}; no update is made that "
                "is not charged"
            ) from error
        # 3. It is there.
        self._size_bytes += len(data)
        self._broken = ""

    def close(self) -> None:
        """Let go of the file; safe to call again."""
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)

    def _check_untouched(self) -> None:
        held = os.fstat(self._descriptor)
        try:
            there = self.path.lstat()
        except OSError:
            there = None
        same = there is not None and os.path.samestat(held, there)
        if not same or held.st_size != self._size_bytes:
            self._broken = (
                f"the ledger {self.path} was removed, replaced or changed while a run held it; "
                "no update is made that is not charged"
            )
            raise LedgerError(self._broken)


def create_file(path: Path, data: bytes) -> None:
    """Make a new file with `data` in it, durably: all of it is there, or no file.

    Raises:
        LedgerError: there is one already, or the folder cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write_durably(partial, data)
        try:
            # Unlike a rename, a link never replaces what is there.
            os.link(partial, path)
        finally:
            partial.unlink()
        flush_folder(path.parent)
    except FileExistsError as error:
        raise LedgerError(f"{path} is there already; a ledger is never begun anew") from error
    except OSError as error:
        raise LedgerError(f"cannot write the ledger {path}: {error.strerror}") from error


def read_file(path: Path) -> bytes:
    """Return the bytes of a ledger, without holding it.

    Raises:
        LedgerError: it is missing, no regular file, too large, or cannot be read.
    """
    descriptor = _open(path, os.O_RDONLY)
    try:
        return _read(descriptor, path)
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise LedgerError.missing(path) from error
    except OSError as error:
        linked = error.errno == errno.ELOOP
        reason = "it is a symbolic link" if linked else error.strerror
        raise LedgerError(f"cannot open the ledger {path}: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LedgerError(f"the ledger {path} is no regular file")
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        raise LedgerError(
            f"another run holds the ledger {path}; runs on the same data take turns"
        ) from busy
    except OSError as error:
        raise LedgerError(f"cannot lock the ledger {path}: {error.strerror}") from error


def _read(descriptor: int, path: Path) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > MAX_LEDGER_BYTES:
        raise LedgerError(f"{path} has {size} bytes; a ledger has {MAX_LEDGER_BYTES} at most")
    data = bytearray()
    try:
        while len(data) < size and (part := os.pread(descriptor, size - len(data), len(data))):
            data += part
    except OSError as error:
        raise LedgerError(f"cannot read the ledger {path}: {error.strerror}") from error
    return bytes(data)
