"""Sealed copies: the digest is of what was copied, and the copy never changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from security.memfile import CHUNK_BYTES, FileChangedError, copy_sealed


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES + 7],
)
def test_a_copy_holds_the_bytes_and_their_digest(size: int, source: int) -> None:
    data = os.urandom(size)
    os.pwrite(source, data, 0)
    copy = copy_sealed(source, size, "test")
    try:
        assert (copy.size_bytes, os.fstat(copy.fd).st_size) == (size, size)
        assert os.pread(copy.fd, size + 1, 0) == data
        assert copy.sha256 == hashlib.sha256(data).hexdigest()
    finally:
        os.close(copy.fd)


@pytest.mark.parametrize("size", [100, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("difference", [-1, 1])
def test_a_file_that_is_not_as_long_as_it_was_is_refused(
    size: int, difference: int, source: int
) -> None:
    os.pwrite(source, bytes(size + difference), 0)
    before = _descriptors()
    with pytest.raises(FileChangedError):
        copy_sealed(source, size, "test")
    assert _descriptors() == before


def test_the_copy_does_not_follow_the_source(source: int) -> None:
    os.pwrite(source, b"before", 0)
    copy = copy_sealed(source, 6, "test")
    try:
        os.pwrite(source, b"after!", 0)
        assert os.pread(copy.fd, 6, 0) == b"before"
    finally:
        os.close(copy.fd)
