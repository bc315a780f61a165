"""Write an ONNX file whose weights pass through memory one at a time.

Protobuf's own serializer holds two copies of the whole message besides the message. Here
the frame (everything but the initializers) is serialized at once, and each initializer after
it: fields of a message may come in any order (protobuf encoding specification), so readers
see the same model. Weights that a graph names and does not hold are read from where they lie
when it is their turn: so writing a model of any size costs one tensor of memory. The bytes
depend on the model and its weights alone.

Refused: files that protobuf could not read back (2 GiB).

Specification: https://protobuf.dev/programming-guides/encoding/ and onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from compiler.errors import ExportError

MAX_FILE_BYTES: Final = (2 << 30) - 1
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_LENGTH_DELIMITED = 2
FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant of a graph that is read when it is written.

    Attributes:
        name: of the value in the graph.
        shape: its shape.
        read: returns it, of that shape; called once, kept by nobody.
        dtype: its type in the file.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    dtype: np.dtype[Any] = FLOAT32

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_model(
    path: Path, model: ModelProto, weights: Sequence[Weight] = (), *, sync: bool = False
) -> None:
    """Write the new file `path`: a model, and the weights that it uses but does not hold.

    Args:
        path: must not exist.
        model: what it does not hold of its weights, it names as inputs of nodes; it is not
            changed.
        weights: in the order in which they are to lie in the file.
        sync: whether the file is to be on the disk when this returns.

    Raises:
        ExportError: the file would have more than 2 GiB.
        OSError: it cannot be written.
    """
    frame, rest = ModelProto(), GraphProto()
    _copy_but(model, frame, "graph")
    _copy_but(model.graph, rest, "initializer")
    outline = rest.SerializeToString(deterministic=True)
    held = model.graph.initializer
    heads = [_tag(_GRAPH_INITIALIZER) + _varint(tensor.ByteSize()) for tensor in held]
    headers = [_header(weight) for weight in weights]
    length = len(outline) + sum(map(len, heads)) + sum(tensor.ByteSize() for tensor in held)
    length += sum(map(len, headers)) + sum(weight.size_bytes for weight in weights)
    start = frame.SerializeToString(deterministic=True) + _tag(_MODEL_GRAPH) + _varint(length)
    if len(start) + length > MAX_FILE_BYTES:
        raise ExportError(
            f"{path.name} would have {len(start) + length} bytes, and one ONNX file holds at most "
            f"{MAX_FILE_BYTES}; take a smaller model, or a GGUF file for a decoder"
        )
    with path.open("xb") as file:
        file.write(start)
        file.write(outline)
        for head, tensor in zip(heads, held, strict=True):
            file.write(head)
            file.write(tensor.SerializeToString(deterministic=True))
        for head, weight in zip(headers, weights, strict=True):
            file.write(head)
            file.write(_content(weight).data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _copy_but(
    source: ModelProto | GraphProto, target: ModelProto | GraphProto, left_out: str
) -> None:
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if isinstance(value, int | str | bytes | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)


def _header(weight: Weight) -> bytes:
    """Return everything of a tensor's message but its elements, with its place in the graph."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    tensor = TensorProto(name=weight.name, dims=weight.shape, data_type=kind)
    data: bytes = tensor.SerializeToString(deterministic=True)
    data += _tag(_TENSOR_RAW_DATA) + _varint(weight.size_bytes)
    return _tag(_GRAPH_INITIALIZER) + _varint(len(data) + weight.size_bytes) + data


def _content(weight: Weight) -> NDArray[np.uint8]:
    array = weight.read()
    if array.shape != weight.shape:
        raise ExportError(f"{weight.name} has another shape than before: {array.shape}")
    # ONNX stores little endian, which numpy's "<" says on any machine.
    stored = np.ascontiguousarray(array, weight.dtype.newbyteorder("<"))
    return stored.reshape(-1).view(np.uint8)


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
