"""Reads `google.rpc.Status` details: ErrorInfo, RetryInfo and BadRequest.

A small reader of protobuf's wire format for these four messages, because the base
install does not carry their generated classes. What it refuses: nothing; it is for
messages to people, so bytes that do not parse give empty details.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MAX_BYTES = 64 << 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NANOS = 1_000_000_000
_PREFIX = b"type.googleapis.com/google.rpc."


@dataclass(frozen=True, slots=True)
class Details:
    """What an error status says beyond its code and message."""

    reason: str = ""
    field: str = ""
    retry_after_seconds: float | None = None


def parse_details(status: bytes) -> Details:
    """Read a serialized google.rpc.Status; empty details for anything else."""
    reason, field, retry = "", "", None
    try:
        for number, value in _fields(status[:_MAX_BYTES]):
            if number != 3 or not isinstance(value, bytes):
                continue
            kind, content = _any(value)
            if kind == _PREFIX + b"ErrorInfo":
                reason = _first_text(content, 1)
            elif kind == _PREFIX + b"RetryInfo":
                retry = _duration(_first_bytes(content, 1))
            elif kind == _PREFIX + b"BadRequest":
                field = _first_text(_first_bytes(content, 1), 1)
    except (IndexError, ValueError):
        return Details()
    return Details(reason, field, retry)


def _any(data: bytes) -> tuple[bytes, bytes]:
    kind = content = b""
    for number, value in _fields(data):
        if isinstance(value, bytes):
            if number == 1:
                kind = value
            elif number == 2:
                content = value
    return kind, content


def _duration(data: bytes) -> float:
    seconds = nanos = 0
    for number, value in _fields(data):
        if isinstance(value, int):
            if number == 1:
                seconds = value
            elif number == 2:
                nanos = value
    return seconds + nanos / _NANOS


def _first_bytes(data: bytes, wanted: int) -> bytes:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, bytes):
            return value
    return b""


def _first_text(data: bytes, wanted: int) -> str:
    return _first_bytes(data, wanted).decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one message; fixed-width values as bytes."""
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        kind = key & 7
        if kind == _VARINT:
            number, offset = _varint(data, offset)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            size, offset = _varint(data, offset)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a wire type that these messages do not use")
        if offset + size > len(data):
            raise ValueError("a value is cut off")
        yield key >> 3, data[offset : offset + size]
        offset += size


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise ValueError("a varint is over 64 bits")
