"""Read the header of a GGUF file into plain values, with every length checked.

This layer knows the encoding and nothing of what the keys mean. It refuses: anything
but little-endian version 2 or 3; counts, lengths and arrays over the limits or beyond
the end of the file; arrays of arrays; keys and tensor names that are empty, repeated,
not UTF-8 or hold a NUL (llama.cpp reads them as C strings, so a NUL would make two
names one).

Invariant: no read starts before its end has been compared with the end of the file,
and nothing is allocated by a count alone.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from mmap import mmap

from security.preparse.limits import GgufLimits
from security.preparse.refuse import refuse, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class ValueType(IntEnum):
    """The types of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_SIZES = {kind: struct.calcsize("<" + code) for kind, code in _FORMATS.items()}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, a flag (0 or 1) or a string."""

    type: ValueType
    value: int | float | str


@dataclass(frozen=True, slots=True)
class Array:
    """A list of numbers, flags or raw strings (not yet known to be UTF-8)."""

    type: ValueType
    values: tuple[int | float, ...] | list[bytes]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its dimensions from the fastest to the slowest, type and offset."""

    name: str
    dimensions: tuple[int, ...]
    type_number: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """The whole header; `end` is the position of the first byte behind it."""

    version: int
    pairs: dict[str, Scalar | Array]
    tensors: list[TensorInfo]
    end: int


class _Cursor:
    """A position in the file that never passes the end."""

    def __init__(self, data: mmap, limits: GgufLimits) -> None:
        self._data = data
        self._end = min(len(data), limits.max_header_bytes)
        self._limits = limits
        self._elements_left = limits.max_total_elements
        self.position = 0

    def claim(self, count: int, what: str) -> None:
        """Take `count` array elements from what all arrays together may have."""
        if count > min(self._limits.max_array_elements, self._elements_left):
            refuse("array-too-long", f"{what} claims {count} elements, more than are allowed")
        self._elements_left -= count

    def skip(self, length: int, what: str) -> int:
        """Move over `length` bytes and return where they begin."""
        start = self.position
        if length > self._end - start:
            refuse("truncated", f"{what} ends beyond the file or beyond the header's limit")
        self.position = start + length
        return start

    def u32(self, what: str) -> int:
        start = self.skip(4, what)
        return int(_U32.unpack_from(self._data, start)[0])

    def u64(self, what: str) -> int:
        start = self.skip(8, what)
        return int(_U64.unpack_from(self._data, start)[0])

    def raw(self, limit: int, what: str) -> bytes:
        """Read a string of at most `limit` bytes."""
        length = self.u64(f"the length of {what}")
        if length > limit:
            refuse("string-too-long", f"{what} claims {length} bytes; at most {limit} are allowed")
        start = self.skip(length, what)
        return self._data[start : start + length]

    def text(self, limit: int, what: str) -> str:
        """Read a string that must be UTF-8 without a NUL."""
        raw = self.raw(limit, what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            refuse("invalid-utf8", f"{what} is not UTF-8")
        if "\0" in text:
            refuse("nul-in-string", f"{what} holds a NUL")
        return text

    def numbers(self, kind: ValueType, count: int, what: str) -> tuple[int | float, ...]:
        """Read `count` numbers of one type."""
        start = self.skip(count * _SIZES[kind], what)
        return struct.unpack_from(f"<{count}{_FORMATS[kind]}", self._data, start)

    def strings(self, count: int, what: str) -> list[bytes]:
        """Read `count` strings; the loop that dominates the time of a large vocabulary."""
        data, end, limit = self._data, self._end, self._limits.max_string_bytes
        unpack = _U64.unpack_from
        budget = self.position + self._limits.max_array_bytes
        position = self.position
        strings: list[bytes] = []
        append = strings.append
        for _ in range(count):
            start = position + 8
            if start > end:
                refuse("truncated", f"{what} ends beyond the file")
            length = unpack(data, position)[0]
            if length > limit or length > end - start:
                refuse("string-too-long", f"a string in {what} claims {length} bytes")
            position = start + length
            if position > budget:
                refuse("array-too-long", f"{what} is larger than the limit")
            append(data[start:position])
        self.position = position
        return strings


def read_header(data: mmap, limits: GgufLimits) -> Header:
    """Read the header of the mapped file; raise UnsafeModelError for anything odd."""
    cursor = _Cursor(data, limits)
    start = cursor.skip(len(MAGIC), "the magic number")
    if data[start : start + len(MAGIC)] != MAGIC:
        refuse("bad-magic", "this is no GGUF file: it does not begin with 'GGUF'")
    version = cursor.u32("the version")
    if version not in VERSIONS:
        refuse("bad-version", f"GGUF version {version} is not one of {VERSIONS} (little-endian)")
    tensor_count = cursor.u64("the tensor count")
    pair_count = cursor.u64("the metadata count")
    if not 0 < tensor_count <= limits.max_tensors:
        refuse("tensor-count", f"{tensor_count} tensors; 1 to {limits.max_tensors} are allowed")
    if not 0 < pair_count <= limits.max_pairs:
        refuse("pair-count", f"{pair_count} metadata keys; 1 to {limits.max_pairs} are allowed")
    pairs: dict[str, Scalar | Array] = {}
    for _ in range(pair_count):
        key = cursor.text(limits.max_key_bytes, "a metadata key")
        if not key or key in pairs:
            refuse("duplicate-key", f"the metadata key {shown(key)} is empty or occurs twice")
        pairs[key] = _read_value(cursor, key, limits)
    tensors = _read_tensors(cursor, tensor_count, limits)
    return Header(version, pairs, tensors, cursor.position)


def _read_value(cursor: _Cursor, key: str, limits: GgufLimits) -> Scalar | Array:
    what = f"the value of {shown(key)}"
    kind = _value_type(cursor.u32(what), what)
    if kind is ValueType.ARRAY:
        return _read_array(cursor, what)
    if kind is ValueType.STRING:
        return Scalar(kind, cursor.text(limits.max_string_bytes, what))
    value = cursor.numbers(kind, 1, what)[0]
    if kind is ValueType.BOOL and value not in (0, 1):
        refuse("bad-bool", f"{what} is a flag of {value}; only 0 and 1 are allowed")
    return Scalar(kind, value)


def _value_type(number: int, what: str) -> ValueType:
    try:
        return ValueType(number)
    except ValueError:
        refuse("bad-value-type", f"{what} has the unknown type {number}")


def _read_array(cursor: _Cursor, what: str) -> Array:
    kind = _value_type(cursor.u32(what), what)
    if kind is ValueType.ARRAY:
        refuse("nested-array", f"{what} is an array of arrays")
    count = cursor.u64(f"the length of {what}")
    cursor.claim(count, what)
    if kind is ValueType.STRING:
        return Array(kind, cursor.strings(count, what))
    return Array(kind, cursor.numbers(kind, count, what))


def _read_tensors(cursor: _Cursor, count: int, limits: GgufLimits) -> list[TensorInfo]:
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    for _ in range(count):
        name = cursor.text(limits.max_tensor_name_bytes, "a tensor's name")
        if not name or name in names:
            refuse("duplicate-tensor", f"the tensor name {shown(name)} is empty or occurs twice")
        names.add(name)
        rank = cursor.u32(f"the rank of {shown(name)}")
        if not 0 < rank <= limits.max_dimensions:
            refuse("bad-rank", f"the tensor {shown(name)} has {rank} dimensions")
        dimensions = tuple(cursor.u64(f"a dimension of {shown(name)}") for _ in range(rank))
        kind = cursor.u32(f"the type of {shown(name)}")
        offset = cursor.u64(f"the offset of {shown(name)}")
        tensors.append(TensorInfo(name, dimensions, kind, offset))
    return tensors
