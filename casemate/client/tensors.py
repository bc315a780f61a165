"""Tensors of the Open Inference Protocol as flat Python lists: no numpy needed.

Data is row-major. On the wire it is little-endian, one raw block per tensor; each
BYTES element is preceded by its length as a uint32. What this refuses: a data type
it does not know, a shape whose product is not the number of values, and a block
whose length does not fit.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from security.errors import UsageError

# Data type -> struct format of one element.
FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "?",
        "INT8": "b",
        "INT16": "h",
        "INT32": "i",
        "INT64": "q",
        "UINT8": "B",
        "UINT16": "H",
        "UINT32": "I",
        "UINT64": "Q",
        "FP16": "e",
        "FP32": "f",
        "FP64": "d",
    }
)
BYTES = "BYTES"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor.

    Attributes:
        name: as the model calls it.
        datatype: "FP32", "INT64", "BYTES", ...
        shape: its dimensions, each 0 or more.
        data: its values, flat and row-major; `bytes` each for BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[Any]

    def to_bytes(self) -> bytes:
        """Return the raw block that goes on the wire.

        Raises:
            UsageError: the type is unknown, or values, type and shape do not agree.
        """
        if any(size < 0 for size in self.shape) or math.prod(self.shape) != len(self.data):
            raise UsageError(
                f"tensor {self.name}: shape {list(self.shape)} does not hold "
                f"{len(self.data)} values"
            )
        if self.datatype == BYTES:
            return b"".join(_prefixed(self.name, value) for value in self.data)
        code = _format(self.name, self.datatype)
        try:
            return struct.pack(f"<{len(self.data)}{code}", *self.data)
        except (struct.error, OverflowError, TypeError) as error:
            raise UsageError(
                f"tensor {self.name}: a value is no {self.datatype}: {error}"
            ) from error

    @classmethod
    def from_bytes(cls, name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
        """Read a raw block.

        Raises:
            UsageError: the type is unknown, or the block's length does not fit.
        """
        count = math.prod(shape)
        if datatype == BYTES:
            data: Sequence[Any] = _split(name, raw)
        else:
            code = _format(name, datatype)
            if any(size < 0 for size in shape) or len(raw) != count * struct.calcsize(f"<{code}"):
                raise UsageError(f"tensor {name}: {len(raw)} bytes do not fit {list(shape)}")
            data = struct.unpack(f"<{count}{code}", raw)
        if len(data) != count:
            raise UsageError(f"tensor {name}: {len(data)} values do not fit {list(shape)}")
        return cls(name, datatype, tuple(shape), data)

    @classmethod
    def from_nested(cls, name: str, datatype: str, value: Any) -> Tensor:
        """Build a tensor from nested lists, such as JSON gives; text becomes UTF-8 BYTES.

        Raises:
            UsageError: the lists are ragged.
        """
        shape: list[int] = []
        level = value
        while isinstance(level, list):
            shape.append(len(level))
            level = level[0] if level else None
        flat = [value]
        for size in shape:
            if any(not isinstance(part, list) or len(part) != size for part in flat):
                raise UsageError(f"tensor {name}: the lists are not all of the same length")
            flat = [item for part in flat for item in part]
        if any(isinstance(item, list) for item in flat):
            raise UsageError(f"tensor {name}: the lists are not all of the same depth")
        data = [item.encode() if isinstance(item, str) else item for item in flat]
        return cls(name, datatype, tuple(shape), data)

    def nested(self) -> Any:
        """Return the values as nested lists of the tensor's shape."""
        parts: list[Any] = list(self.data)
        for size in reversed(self.shape[1:]):
            count = len(parts) // size if size else 0
            parts = [parts[index * size : (index + 1) * size] for index in range(count)]
        return parts if self.shape else parts[0]


def guess_datatype(value: Any) -> str:
    """Return the data type that nested JSON values most likely mean."""
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, int):
        return "INT64"
    return BYTES if isinstance(value, str) else "FP32"


def _format(name: str, datatype: str) -> str:
    code = FORMATS.get(datatype)
    if code is None:
        known = ", ".join([*FORMATS, BYTES])
        raise UsageError(f"tensor {name}: unknown data type {datatype!r}; known: {known}")
    return code


def _prefixed(name: str, value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise UsageError(f"tensor {name}: BYTES values must be bytes")
    return _LENGTH.pack(len(value)) + value


def _split(name: str, raw: bytes) -> list[bytes]:
    values, offset = [], 0
    while offset < len(raw):
        if offset + _LENGTH.size > len(raw):
            raise UsageError(f"tensor {name}: a BYTES length is cut off")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if offset + length > len(raw):
            raise UsageError(f"tensor {name}: a BYTES value is cut off")
        values.append(raw[offset : offset + length])
        offset += length
    return values
