"""What a safetensors file says that it holds, verified before any of it is believed.

A file is eight bytes of length, that many bytes of JSON, and the tensors. It comes from
strangers, so the header is bounded and strict JSON, every tensor's type, shape and place
must agree with each other, and the places must fill the file without a gap, an overlap or
a byte too many. That is what the format's own library demands as well.

Pure: bytes in, entries out; the file system is elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from security.strictjson import StrictJsonError, parse

LENGTH_BYTES: Final = 8
# 160 bytes for each of the most tensors. The format's own library allows 100 MB; as JSON of
# empty tables that would take gigabytes here.
MAX_HEADER_BYTES: Final = 16_000_000
_MAX_DEPTH: Final = 4
_MAX_TENSORS: Final = 100_000
_MAX_DIMENSIONS: Final = 8
_MAX_SIZE: Final = 1 << 48
_METADATA: Final = "__metadata__"
# Bytes of an element; types of less than a byte are not among them.
ELEMENT_BYTES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


class HeaderError(ValueError):
    """A header that breaks the format; says in what, and for which tensor."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's place: its name, its type, its shape, and [start, end) in the file."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_length(first: bytes, file_bytes: int) -> int:
    """Return how long the header is.

    Args:
        first: the file's first eight bytes.
        file_bytes: length of the file.

    Raises:
        HeaderError: there can be no header of that length.
    """
    length = int.from_bytes(first, "little")
    if len(first) < LENGTH_BYTES:
        raise HeaderError("ends within its header; the file is truncated")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise HeaderError("is not a valid safetensors file: it has no header")
    if LENGTH_BYTES + length > file_bytes:
        raise HeaderError("ends within its header; the file is truncated")
    return length


def read_header(text: bytes, file_bytes: int) -> tuple[Entry, ...]:
    """Return the tensors of a file in the order in which they lie there.

    Args:
        text: the whole header, without its length.
        file_bytes: length of the file.

    Raises:
        HeaderError: header and file are not a safetensors file.
    """
    try:
        content = parse(text, max_bytes=MAX_HEADER_BYTES, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise HeaderError(f"is not a valid safetensors file: {error}") from error
    if not isinstance(content, dict) or len(content) > _MAX_TENSORS:
        raise HeaderError("is not a valid safetensors file: its header is no table of tensors")
    first = at = LENGTH_BYTES + len(text)
    entries = sorted(_entries(content, first), key=lambda entry: (entry.start, entry.end))
    for entry in entries:
        if entry.start != at:
            raise HeaderError(f"{entry.name!a} overlaps another tensor or leaves a gap")
        if entry.end > file_bytes:
            raise HeaderError(f"ends within {entry.name!a}; the file is truncated")
        at = entry.end
    if at != file_bytes:
        raise HeaderError(f"{file_bytes - at} bytes follow the last tensor")
    return tuple(entries)


def _entries(header: Mapping[str, Any], first: int) -> Iterator[Entry]:
    for name, value in header.items():
        if name == _METADATA:
            continue
        fields = value if isinstance(value, dict) else {}
        kind = fields.get("dtype")
        if not isinstance(kind, str) or kind not in ELEMENT_BYTES:
            raise HeaderError(f"{name[:200]!a} has the type {kind!a:.40}, which is unknown here")
        shape, place = _numbers(fields.get("shape")), _numbers(fields.get("data_offsets"))
        if shape is None or len(shape) > _MAX_DIMENSIONS or place is None or len(place) != 2:
            raise HeaderError(f"{name[:200]!a} has no valid shape or place")
        begin, end = place
        if end - begin != math.prod(shape) * ELEMENT_BYTES[kind]:
            raise HeaderError(f"{name[:200]!a} does not have the length of its shape")
        yield Entry(name, kind, shape, first + begin, first + end)


def _numbers(value: object) -> tuple[int, ...] | None:
    """Return a list of sizes as a tuple, or None if it is none."""
    if not isinstance(value, list):
        return None
    return tuple(value) if all(type(v) is int and 0 <= v < _MAX_SIZE for v in value) else None
