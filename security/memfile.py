"""Copies a file into sealed memory, and says what the copy's SHA-256 is.

Invariant: the digest is of the bytes that went into the memory file, not of a file
that somebody might change meanwhile; after sealing nobody, this process included,
can change them. What was verified is what is used.

Each chunk is read once into a private buffer, from where one thread hashes it while
another writes it; both release the interpreter lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

# linux/memfd.h: since Linux 6.3; not in Python 3.11's os.
_MFD_NOEXEC_SEAL: Final = 0x0008
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL

# Two such buffers stay within a second-level cache or close to it.
CHUNK_BYTES: Final = 1 << 20


class FileChangedError(Exception):
    """The source yielded more or fewer bytes than its size said."""


@dataclass(frozen=True, slots=True)
class SealedCopy:
    """A sealed memory file: a read-only, close-on-exec descriptor, and what it holds."""

    fd: int
    size_bytes: int
    sha256: str


def copy_sealed(source_fd: int, size_bytes: int, name: str) -> SealedCopy:
    """Copy `size_bytes` from the start of `source_fd`; the caller closes the copy's fd.

    Args:
        source_fd: a readable regular file, read from its current offset.
        size_bytes: what fstat said; the file must hold exactly that much.
        name: shows in /proc/self/maps; no other meaning.

    Raises:
        FileChangedError: the file was truncated or extended meanwhile.
        OSError: it cannot be read, or there is no memory for the copy.
    """
    memory_fd = _create(name)
    try:
        os.ftruncate(memory_fd, size_bytes)
        digest = _copy(source_fd, memory_fd, size_bytes)
        fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, _SEALS)
        # Readers get a descriptor that cannot even ask to write; kernels before 6.7
        # also refuse to map a sealed file that was opened for writing.
        reading_fd = os.open(f"/proc/self/fd/{memory_fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memory_fd)
    return SealedCopy(reading_fd, size_bytes, digest)


def _create(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before Linux 6.3 the flag is unknown; the copy is as immutable without it.
        return os.memfd_create(name, flags)


def _copy(source_fd: int, target_fd: int, size_bytes: int) -> str:
    hasher = hashlib.sha256()
    if size_bytes <= CHUNK_BYTES:
        chunk = memoryview(bytearray(size_bytes))
        _read_exactly(source_fd, chunk)
        hasher.update(chunk)
        _write_all(target_fd, chunk)
    else:
        with ThreadPoolExecutor(1, thread_name_prefix="sha256") as thread:
            _copy_overlapped(source_fd, target_fd, size_bytes, hasher, thread)
    if os.read(source_fd, 1):
        raise FileChangedError("it grew while it was read")
    return hasher.hexdigest()


def _copy_overlapped(
    source_fd: int,
    target_fd: int,
    size_bytes: int,
    hasher: hashlib._Hash,
    thread: ThreadPoolExecutor,
) -> None:
    """Fill two buffers in turn; one is hashed while the other is filled and written."""
    buffers = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(2)]
    hashed: list[Future[None] | None] = [None, None]
    for index, start in enumerate(range(0, size_bytes, CHUNK_BYTES)):
        slot = index % 2
        previous = hashed[slot]
        if previous is not None:
            previous.result()
        chunk = buffers[slot][: min(CHUNK_BYTES, size_bytes - start)]
        _read_exactly(source_fd, chunk)
        hashed[slot] = thread.submit(hasher.update, chunk)
        _write_all(target_fd, chunk)
    for pending in hashed:
        if pending is not None:
            pending.result()


def _read_exactly(fd: int, buffer: memoryview) -> None:
    while buffer:
        count = os.readv(fd, [buffer])
        if count == 0:
            raise FileChangedError("it was cut short while it was read")
        buffer = buffer[count:]


def _write_all(fd: int, buffer: memoryview) -> None:
    while buffer:
        buffer = buffer[os.write(fd, buffer) :]
