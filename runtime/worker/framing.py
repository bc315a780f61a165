"""Frames between front and worker: a big-endian uint32 length, then that many bytes.

Both sides refuse an empty frame, a frame above the agreed limit, and a stream that
ends inside a frame. The length is checked before a byte of the payload is kept, so
a hostile peer cannot make the other side reserve memory.

`FrameBuffer` is the incremental form for the front's event loop; `read_frame` and
`write_frame` are the blocking form for the worker's threads, on plain descriptors
because the worker's system-call filter knows no socket calls.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from runtime.errors import FrameError

HEADER = struct.Struct(">I")
_READ_BYTES = 1 << 18


def frame(payload: bytes, limit_bytes: int) -> bytes:
    """Return `payload` with its header; raises FrameError above `limit_bytes` or when empty."""
    if not payload:
        raise FrameError("refusing to send an empty frame")
    if len(payload) > limit_bytes:
        raise FrameError(f"refusing to send a frame of {len(payload)} bytes, over {limit_bytes}")
    return HEADER.pack(len(payload)) + payload


def _checked_length(header: bytes | bytearray, limit_bytes: int) -> int:
    length: int = HEADER.unpack_from(header)[0]
    if length == 0:
        raise FrameError("the peer sent an empty frame")
    if length > limit_bytes:
        raise FrameError(f"the peer announced a frame of {length} bytes, over {limit_bytes}")
    return length


class FrameBuffer:
    """Cuts a byte stream into frames as it arrives. Not thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes and yield each frame that is now whole; raises FrameError."""
        self._data += data
        start = 0
        try:
            while len(self._data) - start >= HEADER.size:
                length = _checked_length(self._data[start : start + HEADER.size], self._limit)
                end = start + HEADER.size + length
                if len(self._data) < end:
                    break
                payload = bytes(self._data[start + HEADER.size : end])
                start = end
                yield payload
        finally:
            del self._data[:start]

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._data)


def _read_exactly(fd: int, count: int) -> bytearray:
    data = bytearray()
    while len(data) < count:
        piece = os.read(fd, min(count - len(data), _READ_BYTES))
        if not piece:
            break
        data += piece
    return data


def read_frame(fd: int, limit_bytes: int) -> bytes | None:
    """Read one frame, blocking; None when the peer closed between frames."""
    header = _read_exactly(fd, HEADER.size)
    if not header:
        return None
    if len(header) < HEADER.size:
        raise FrameError("the peer closed inside a frame")
    length = _checked_length(header, limit_bytes)
    payload = _read_exactly(fd, length)
    if len(payload) < length:
        raise FrameError("the peer closed inside a frame")
    return bytes(payload)


def write_frame(fd: int, payload: bytes, limit_bytes: int) -> None:
    """Write one frame, blocking until the kernel took all of it. The caller holds the lock."""
    view = memoryview(frame(payload, limit_bytes))
    while view:
        view = view[os.write(fd, view) :]
