"""Files that hold keys and certificates: durable writing, exclusive creation, checked reading.

What it refuses: to overwrite a key; to read a key that anybody else could read,
write, or reach under a second name; to read more than the caller allowed.

Invariants:
- Every check is made on the descriptor that is then read, never on the path, so
  that nothing can be put in its place in between.
- After `write_atomic` returns, the new content survives a power cut; before it
  returns, a reader sees the old content or the new, whole, and nothing else.
- No message holds content of a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from security.errors import KeyFileError, SecurityError

# The largest key we write is an encrypted ECDSA key of about 500 bytes; other
# tools write ML-DSA keys expanded, about 8 KiB in PEM.
MAX_KEY_FILE_BYTES = 64 * 1024
# Certificates, roots, revocation lists, ledgers: 10,000 revocations are 400 KiB.
MAX_TRUST_FILE_BYTES = 16 * 1024 * 1024

# os.read sets aside as much memory as it is asked for.
READ_CHUNK_BYTES = 256 * 1024

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
PRIVATE_FOLDER_MODE = 0o700

Parsed = TypeVar("Parsed")

# A file's identity and state: device, inode, size, modification and change time.
Stamp = tuple[int, int, int, int, int]


def write_atomic(path: Path, data: bytes, mode: int = PUBLIC_MODE) -> None:
    """Replace `path` with `data`, durably: readers see the old file or the new one.

    The steps, and what a crash after each leaves: (1) a new file beside it is
    written and flushed: the old file and a stray `.NAME.*.tmp`; (2) it is renamed
    over the old one: either; (3) the folder is flushed: the new one.

    Raises:
        OSError: the disk refused; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    create_exclusive(temporary, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_exclusive(path: Path, data: bytes, mode: int = PRIVATE_MODE) -> None:
    """Create `path` with exactly `mode`, whatever the umask, and flush it to the disk.

    A crash may leave an incomplete file, which every loader of ours refuses. The
    folder is not flushed: the caller does so once for all the files it makes.

    Raises:
        FileExistsError: there is something at `path` already; it is left alone.
        OSError: the disk refused; nothing is left at `path`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, PRIVATE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable.

    Raises:
        OSError: it is no folder, or the disk refused.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make the names in `folder` and in every folder below it durable."""
    for inner, _, _ in os.walk(folder):
        sync_folder(Path(inner))


def read_bounded(path: Path, max_bytes: int = MAX_TRUST_FILE_BYTES) -> bytes:
    """Read a regular file of at most `max_bytes` that need not be secret.

    Raises:
        SecurityError: it is missing, no regular file, unreadable, or larger.
    """
    try:
        return _read_checked(path, max_bytes, private=False)
    except OSError as error:
        raise SecurityError(f"cannot read {path}: {_reason(error)}") from error


def read_private(path: Path, max_bytes: int = MAX_KEY_FILE_BYTES) -> bytes:
    """Read a file that only we may read: see `KeyFileError` for what is refused.

    Raises:
        KeyFileError: it is missing, a symbolic link, no regular file, not owned by
            this user, open to group or others, known by a second name, or too large.
    """
    try:
        return _read_checked(path, max_bytes, private=True)
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link; put the file itself there"
    return error.strerror or type(error).__name__


def _read_checked(path: Path, max_bytes: int, *, private: bool) -> bytes:
    # O_NONBLOCK: opening a FIFO that somebody left here must not hang.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if private else 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        kind = KeyFileError if private else SecurityError
        if not stat.S_ISREG(status.st_mode):
            raise kind(f"{path} is not a regular file")
        if private:
            _check_private(path, status)
        # One byte more than allowed tells a file that grew, or lies about its size.
        parts: list[bytes] = []
        room = max_bytes + 1
        while room and (part := os.read(descriptor, min(room, READ_CHUNK_BYTES))):
            parts.append(part)
            room -= len(part)
        if not room:
            raise kind(f"{path} is larger than {max_bytes} bytes")
    finally:
        os.close(descriptor)
    return b"".join(parts)


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise KeyFileError(
            f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} who runs this: "
            f"chown it"
        )
    if status.st_mode & 0o077:
        raise KeyFileError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, so others can get at the key: "
            f"chmod 600 {path}, and replace the key if others may have read it"
        )
    if status.st_nlink != 1:
        raise KeyFileError(f"{path} has {status.st_nlink} names (hard links); a key has one")


def _stamp(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on `folder` among the processes that use this function.

    It waits for its turn; the lock ends with the process at the latest.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class WatchedFile(Generic[Parsed]):
    """A parsed file that is read again when it changes, and never gets worse.

    `current()` costs one stat (about 2 microseconds) while nothing changes. When
    the new content is missing, unreadable or refused by `parse`, the last good
    content stays in force and `error` says why; each state of the file is tried once.

    Not thread-safe: one event loop or thread owns it.

    Args:
        path: the file; replace it by renaming, as `write_atomic` does.
        parse: turns bytes into the content; raises `SecurityError` to refuse them.
        private: read it by the rules for key files.

    Raises:
        SecurityError: the first content is not good (there is nothing to fall back to).
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], Parsed], *, private: bool = False
    ) -> None:
        self.path = path
        self.error: SecurityError | None = None
        self.generation = 0
        self._parse = parse
        self._private = private
        self._seen: Stamp | None = None
        self._content = self._load()

    def current(self) -> Parsed:
        """Return the content, read again first if the file has changed."""
        if self.changed():
            try:
                self._content = self._load()
            except SecurityError as error:
                self.error = error
        return self._content

    def changed(self) -> bool:
        """Tell whether the file differs from what was last tried."""
        try:
            return _stamp(self.path.stat()) != self._seen
        except OSError:
            return self._seen is not None

    def _load(self) -> Parsed:
        max_bytes = MAX_KEY_FILE_BYTES if self._private else MAX_TRUST_FILE_BYTES
        try:
            # Taken before reading: a file replaced in between differs at the next
            # call and is read once more. Kept if parsing fails: a bad file is read once.
            self._seen = _stamp(self.path.stat())
            data = _read_checked(self.path, max_bytes, private=self._private)
        except OSError as error:
            self._seen = None
            raise SecurityError(f"cannot read {self.path}: {_reason(error)}") from error
        content = self._parse(data)
        self.error = None
        self.generation += 1
        return content
