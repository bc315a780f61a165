"""Open Inference Protocol tensors as the front sees them: one raw form, and texts.

The front brings every input into one form, raw little-endian bytes, so that the
commitment covers the same bytes however they were sent, and reads the elements of
BYTES tensors, which are text and pass the filters. Whether numbers are finite and
fit the graph is checked by the worker, which knows the graph.

Invariant: elements are counted by the shape before any of them is cut or decoded, so
that a message of empty elements costs no more than one that is refused for its size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence

from casemate.pb.inference import inference_pb2
from runtime.front.errors import invalid

BYTES = "BYTES"
MAX_RANK = 8
# Inputs, and outputs asked for.
MAX_INPUTS = 64
# BYTES elements of all inputs, or of all outputs, of a graph: each passes the rules.
MAX_TEXT_ELEMENTS = 4096
# Numbers in typed contents; larger tensors go raw.
MAX_TYPED_ELEMENTS = 1 << 20
_LENGTH = struct.Struct("<I")
# Datatype -> (field of InferTensorContents, struct code). FP16 and BF16 travel raw only.
_CONTENTS = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}
# Datatype -> bytes of an element.
_RAW_ONLY = {"FP16": 2}

InputTensor = inference_pb2.ModelInferRequest.InferInputTensor


def pack_elements(elements: Iterable[bytes]) -> bytes:
    """Return BYTES elements raw: each behind its length, a little-endian uint32."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def split_elements(raw: bytes, count: int) -> list[bytes] | None:
    """Cut raw BYTES into `count` elements; None when they do not fill it exactly."""
    elements = []
    start = 0
    for _ in range(count):
        end = start + _LENGTH.size
        if end > len(raw):
            return None
        length = _LENGTH.unpack_from(raw, start)[0]
        if end + length > len(raw):
            return None
        elements.append(raw[end : end + length])
        start = end + length
    return elements if start == len(raw) else None


def raw_size(datatype: str, count: int) -> int | None:
    """Return the bytes that `count` numbers take; None for a datatype that holds none."""
    if datatype in _CONTENTS:
        return count * struct.calcsize("<" + _CONTENTS[datatype][1])
    return count * _RAW_ONLY[datatype] if datatype in _RAW_ONLY else None


def read_inputs(request: inference_pb2.ModelInferRequest, max_texts: int) -> list[str]:
    """Check the inputs' form, bring them all into `raw_input_contents`, return the texts.

    Args:
        request: changed in place.
        max_texts: how many elements all BYTES inputs may hold together.

    Returns:
        The elements of all BYTES inputs, in order.

    Raises:
        Refusal: INVALID_ARGUMENT, naming the input.
    """
    if not request.inputs:
        raise invalid("inputs", "must not be empty", "EMPTY_LIST")
    for field, items in (("inputs", request.inputs), ("outputs", request.outputs)):
        if len(items) > MAX_INPUTS:
            raise invalid(field, f"has more than {MAX_INPUTS} items", "TOO_MANY_ITEMS")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid("raw_input_contents", "must have one entry per input", "WRONG_SHAPE")
    has_raw = bool(raw)
    texts: list[str] = []
    names = set()
    for index, tensor in enumerate(request.inputs):
        field = f"inputs[{index}]"
        if not tensor.name or tensor.name in names:
            raise invalid(f"{field}.name", "is missing or given twice")
        names.add(tensor.name)
        if tensor.datatype not in (BYTES, *_CONTENTS, *_RAW_ONLY):
            raise invalid(f"{field}.datatype", "is unknown", "WRONG_DATATYPE")
        count = _elements(tensor.shape, f"{field}.shape")
        if tensor.datatype == BYTES and len(texts) + count > max_texts:
            raise invalid(field, f"more than {max_texts} elements", "TOO_MANY_ITEMS")
        if has_raw and tensor.HasField("contents") and tensor.contents.ByteSize() > 0:
            raise invalid(f"{field}.contents", "is given raw as well")
        if not has_raw:
            raw.append(_packed(tensor, count, f"{field}.contents"))
            tensor.ClearField("contents")
        if tensor.datatype == BYTES:
            texts.extend(_texts(raw[index], count, field))
    return texts


def _texts(raw: bytes, count: int, field: str) -> list[str]:
    elements = split_elements(raw, count)
    if elements is None:
        raise invalid(field, "the BYTES elements do not fill the shape", "WRONG_SHAPE")
    texts = []
    for number, element in enumerate(elements):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise invalid(field, f"element {number} is not UTF-8", "NOT_UTF8") from None
    return texts


def _elements(shape: Sequence[int], field: str) -> int:
    if len(shape) > MAX_RANK:
        raise invalid(field, f"has more than {MAX_RANK} dimensions", "WRONG_SHAPE")
    if any(size < 0 for size in shape):
        raise invalid(field, "has a negative dimension", "WRONG_SHAPE")
    return math.prod(shape)


def _packed(tensor: InputTensor, count: int, field: str) -> bytes:
    """Return the raw form of a tensor's typed contents."""
    kind = tensor.datatype
    if kind == BYTES:
        values: Sequence[object] = tensor.contents.bytes_contents
    elif kind in _CONTENTS:
        values = getattr(tensor.contents, _CONTENTS[kind][0])
    else:
        raise invalid(field, f"{kind} goes in raw_input_contents", "WRONG_DATATYPE")
    if len(values) != count:
        raise invalid(field, f"holds {len(values)} elements, the shape {count}", "WRONG_SHAPE")
    if kind == BYTES:
        return pack_elements(tensor.contents.bytes_contents)
    if count > MAX_TYPED_ELEMENTS:
        raise invalid(field, f"has more than {MAX_TYPED_ELEMENTS} items", "TOO_MANY_ITEMS")
    try:
        return struct.pack(f"<{count}{_CONTENTS[kind][1]}", *values)
    except struct.error:
        raise invalid(field, f"an element is out of the range of {kind}") from None


def replace_texts(request: inference_pb2.ModelInferRequest, texts: Sequence[str]) -> None:
    """Put texts in the place of those that `read_inputs` returned."""
    queue = iter(texts)
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype == BYTES:
            count = math.prod(tensor.shape)
            packed = pack_elements(next(queue).encode() for _ in range(count))
            request.raw_input_contents[index] = packed


def add_output(
    response: inference_pb2.ModelInferResponse,
    name: str,
    datatype: str,
    shape: Sequence[int],
    raw: bytes,
) -> None:
    """Append one output."""
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
