"""A minimal reader of the protobuf wire format, for checking and not for decoding.

It yields where things are and leaves the bytes in the map. Against the schema that it
is given it refuses what a decoder would forgive and merge: unknown fields, a singular
field that occurs twice, wrong wire types, groups, over-long varints, lengths beyond
the enclosing message. So what was checked here has one reading only.

Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from mmap import mmap

from security.preparse.refuse import refuse

_MAX_VARINT_BYTES = 10
_U64 = 1 << 64
_I64_SIGN = 1 << 63
_MORE = 0x80
# The bytes that continue a varint; removing them leaves one byte a number.
_CONTINUATION = bytes(range(_MORE, 256))


class Wire(IntEnum):
    """Wire types; groups (3 and 4) are missing on purpose."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


@dataclass(frozen=True, slots=True)
class Field:
    """What the schema says of one field.

    Attributes:
        wire: the wire type of one value.
        repeated: whether it may occur more than once.
        packed: whether a number may also come as a packed run.
    """

    wire: Wire
    repeated: bool = False

    @property
    def packed(self) -> bool:
        """Repeated numbers may be packed."""
        return self.repeated and self.wire is not Wire.BYTES


Schema = Mapping[int, Field]


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes in the map: a message, a string, or a packed run."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes in the range."""
        return self.end - self.start


# A varint is its unsigned number; everything else is where it lies.
Value = int | Span
Message = dict[int, list[Value]]


class WireReader:
    """Reads messages out of one map and counts fields against one budget."""

    def __init__(self, data: mmap, max_fields: int) -> None:
        self._data = data
        self._fields_left = max_fields

    def message(self, span: Span, schema: Schema, what: str) -> Message:
        """Return the values of each field present in the message at `span`."""
        found: Message = {}
        position = span.start
        while position < span.end:
            self._fields_left -= 1
            if self._fields_left < 0:
                refuse("too-many-fields", "the file has more fields than are allowed")
            tag, position = self._varint(position, span.end, what)
            number, wire = tag >> 3, tag & 7
            field = schema.get(number)
            if field is None:
                refuse("unknown-field", f"{what} has the field {number}, which is not allowed")
            value, position = self._value(position, span.end, wire, field, what)
            values = found.setdefault(number, [])
            if values and not field.repeated:
                refuse("repeated-field", f"{what} has the field {number} more than once")
            values.append(value)
        return found

    def _value(
        self, position: int, end: int, wire: int, field: Field, what: str
    ) -> tuple[Value, int]:
        if wire == Wire.VARINT and field.wire is Wire.VARINT:
            return self._varint(position, end, what)
        if wire == Wire.BYTES and (field.wire is Wire.BYTES or field.packed):
            length, start = self._varint(position, end, what)
        elif wire == field.wire:
            length, start = (4 if wire == Wire.FIXED32 else 8), position
        else:
            refuse("wrong-wire-type", f"{what} has a field of the wrong wire type {wire}")
        if length > end - start:
            refuse("truncated", f"a field of {what} claims {length} bytes beyond its end")
        return Span(start, start + length), start + length

    def _varint(self, position: int, end: int, what: str) -> tuple[int, int]:
        data, result, shift = self._data, 0, 0
        for index in range(position, min(end, position + _MAX_VARINT_BYTES)):
            byte = data[index]
            result |= (byte & 0x7F) << shift
            if byte < _MORE:
                if result >= _U64:
                    refuse("bad-varint", f"a number in {what} has more than 64 bits")
                return result, index + 1
            shift += 7
        refuse("bad-varint", f"a number in {what} does not end")

    def bytes(self, span: Span) -> bytes:
        """Return the bytes at `span`; the caller has bounded its length."""
        return self._data[span.start : span.end]

    def text(self, value: Value, limit: int, what: str) -> str:
        """Return a string of at most `limit` bytes that is UTF-8 without a NUL."""
        if not isinstance(value, Span) or value.length > limit:
            refuse("string-too-long", f"{what} is longer than {limit} bytes")
        try:
            text = self.bytes(value).decode()
        except UnicodeDecodeError:
            refuse("invalid-utf8", f"{what} is not UTF-8")
        if "\0" in text:
            refuse("nul-in-string", f"{what} holds a NUL")
        return text

    def signed(self, values: list[Value], limit: int, what: str) -> list[int]:
        """Return repeated int64 numbers, packed or not, at most `limit` of them."""
        numbers: list[int] = []
        for value in values:
            if not isinstance(value, Span):
                numbers.append(value)
                continue
            position = value.start
            while position < value.end and len(numbers) <= limit:
                number, position = self._varint(position, value.end, what)
                numbers.append(number)
        if len(numbers) > limit:
            refuse("list-too-long", f"{what} has more than {limit} entries")
        return [n - _U64 if n >= _I64_SIGN else n for n in numbers]

    def count(self, values: list[Value], wire: Wire, limit_bytes: int, what: str) -> int:
        """Count repeated numbers, packed or not, without decoding them.

        A packed run of varints is copied to be counted, so it is bounded by
        `limit_bytes`.
        """
        total = 0
        for value in values:
            if wire is Wire.VARINT and isinstance(value, Span):
                if value.length > limit_bytes:
                    refuse("list-too-long", f"{what} is longer than {limit_bytes} bytes")
                run = self.bytes(value)
                if run and run[-1] >= _MORE:
                    refuse("bad-varint", f"a number in {what} does not end")
                total += len(run.translate(None, _CONTINUATION))
            elif wire is Wire.VARINT or not isinstance(value, Span):
                total += 1
            else:
                width = 4 if wire is Wire.FIXED32 else 8
                if value.length % width:
                    refuse("bad-packing", f"{what} holds a broken number")
                total += value.length // width
        return total
