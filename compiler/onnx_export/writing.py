"""Write an ONNX file whose weights pass through memory one at a time.

A graph is made without its weights. They are its initializers on disk: their bytes are
appended to the serialized graph, which protobuf's wire format allows, since the order of
fields carries no meaning. So writing a model of any size costs one tensor of memory, and
the same graph and weights give the same bytes.

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
from onnx import ModelProto, TensorProto, helper

from compiler.errors import ExportError

MAX_FILE_BYTES: Final = (2 << 30) - 1
GRAPH_FILE: Final = "model.onnx"
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


def write_model(path: Path, model: ModelProto, weights: Sequence[Weight]) -> None:
    """Write the new file `path`: a model and the weights that it uses but does not hold.

    Args:
        path: must not exist.
        model: its graph names the weights as inputs of nodes; it is not changed.
        weights: in the order in which they are to lie in the file.

    Raises:
        ExportError: the file would have more than 2 GiB.
        OSError: it cannot be written.
    """
    frame = ModelProto()
    frame.CopyFrom(model)
    frame.ClearField("graph")
    graph = model.graph.SerializeToString(deterministic=True)
    headers = [_header(weight) for weight in weights]
    length = len(graph) + sum(
        len(head) + weight.size_bytes for head, weight in zip(headers, weights, strict=True)
    )
    start = frame.SerializeToString(deterministic=True) + _tag(_MODEL_GRAPH) + _varint(length)
    if len(start) + length > MAX_FILE_BYTES:
        raise ExportError(
            f"{path.name} would have {len(start) + length} bytes, and one ONNX file holds at most "
            f"{MAX_FILE_BYTES}; take a smaller model, or a GGUF file for a decoder"
        )
    with path.open("xb") as file:
        file.write(start)
        file.write(graph)
        for head, weight in zip(headers, weights, strict=True):
            file.write(head)
            file.write(_content(weight).data)
        file.flush()
        os.fsync(file.fileno())


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
