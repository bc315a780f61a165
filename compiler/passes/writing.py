"""Write a model to a file one tensor at a time.

Protobuf's own serializer holds two copies of the whole message besides the message. Here the
frame (everything but the initializers) is serialized at once, and each initializer after
it; fields of a message may come in any order (protobuf encoding specification), so readers see
the same model. The bytes depend on the model alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from onnx import GraphProto, ModelProto

# Field numbers of onnx.proto, with wire type 2 (length and bytes).
_GRAPH_TAG, _INITIALIZER_TAG = bytes([7 << 3 | 2]), bytes([5 << 3 | 2])


def write_model(model: ModelProto, path: Path) -> None:
    """Write `model` to `path`, which is replaced if it is there."""
    with path.open("wb") as file:
        _write(model, file)


def _write(model: ModelProto, file: BinaryIO) -> None:
    frame, rest = ModelProto(), GraphProto()
    _copy_but(model, frame, "graph")
    _copy_but(model.graph, rest, "initializer")
    outline = rest.SerializeToString(deterministic=True)
    heads = []
    size = len(outline)
    for tensor in model.graph.initializer:
        head = _INITIALIZER_TAG + _varint(tensor.ByteSize())
        heads.append(head)
        size += len(head) + tensor.ByteSize()
    file.write(frame.SerializeToString(deterministic=True))
    file.write(_GRAPH_TAG + _varint(size) + outline)
    for head, tensor in zip(heads, model.graph.initializer, strict=True):
        file.write(head)
        file.write(tensor.SerializeToString(deterministic=True))


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


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
