"""Open Inference Protocol tensors as the front sees them: one raw form, and texts.

The front brings every input into one form, raw little-endian bytes, so that the
commitment covers the same bytes however they were sent, and reads the elements of
BYTES tensors, which are text and pass the filters. Whether numbers are finite and
fit the graph is checked by the worker, which knows the graph.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from casemate.pb.inference import inference_pb2
from runtime.front.errors import invalid

BYTES = "BYTES"
MAX_RANK = 8
MAX_INPUTS = 64
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
_RAW_ONLY = ("FP16",)

InputTensor = inference_pb2.ModelInferRequest.InferInputTensor


def pack_elements(elements: Iterable[bytes]) -> bytes:
    """Return BYTES elements raw: each behind its length, a little-endian uint32."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def split_elements(raw: bytes, field: str) -> list[bytes]:
    """Cut raw BYTES into elements; raise a Refusal when they do not fill it exactly."""
    elements = []
    start = 0
    while start < len(raw):
        end = start + _LENGTH.size
        length = _LENGTH.unpack_from(raw, start)[0] if end <= len(raw) else len(raw)
        if end + length > len(raw):
            raise invalid(field, "the BYTES elements do not fill the tensor", "WRONG_SHAPE")
        elements.append(raw[end : end + length])
        start = end + length
    return elements


def make_raw(request: inference_pb2.ModelInferRequest) -> None:
    """Check the inputs' form and bring them all into `raw_input_contents`.

    Raises:
        Refusal: INVALID_ARGUMENT, naming the input.
    """
    if not request.inputs:
        raise invalid("inputs", "must not be empty", "EMPTY_LIST")
    if len(request.inputs) > MAX_INPUTS:
        raise invalid("inputs", f"has more than {MAX_INPUTS} items", "TOO_MANY_ITEMS")
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise invalid("raw_input_contents", "must have one entry per input", "WRONG_SHAPE")
    names = set()
    for index, tensor in enumerate(request.inputs):
        field = f"inputs[{index}]"
        if not tensor.name or tensor.name in names:
            raise invalid(f"{field}.name", "is missing or given twice")
        names.add(tensor.name)
        if tensor.datatype not in (BYTES, *_CONTENTS, *_RAW_ONLY):
            raise invalid(f"{field}.datatype", "is unknown", "WRONG_DATATYPE")
        has_contents = tensor.HasField("contents") and tensor.contents.ByteSize() > 0
        if raw and has_contents:
            raise invalid(f"{field}.contents", "is given raw as well")
        count = _elements(tensor.shape, f"{field}.shape")
        if not raw:
            _pack_contents(request, tensor, count, field)
        elif tensor.datatype == BYTES and len(split_elements(raw[index], field)) != count:
            raise invalid(field, "the elements do not fill the shape", "WRONG_SHAPE")


def _elements(shape: Sequence[int], field: str) -> int:
    if len(shape) > MAX_RANK:
        raise invalid(field, f"has more than {MAX_RANK} dimensions", "WRONG_SHAPE")
    count = 1
    for size in shape:
        if size < 0:
            raise invalid(field, "has a negative dimension", "WRONG_SHAPE")
        count *= size
    return count


def _pack_contents(
    request: inference_pb2.ModelInferRequest, tensor: InputTensor, count: int, field: str
) -> None:
    """Append the raw form of a tensor's typed contents, and clear those."""
    if tensor.datatype == BYTES:
        values: Sequence[object] = tensor.contents.bytes_contents
    elif tensor.datatype in _CONTENTS:
        values = getattr(tensor.contents, _CONTENTS[tensor.datatype][0])
    else:
        kind = tensor.datatype
        raise invalid(f"{field}.contents", f"{kind} goes in raw_input_contents", "WRONG_DATATYPE")
    if len(values) != count:
        raise invalid(
            f"{field}.contents", f"holds {len(values)} elements, the shape {count}", "WRONG_SHAPE"
        )
    if tensor.datatype == BYTES:
        packed = pack_elements(tensor.contents.bytes_contents)
    else:
        try:
            packed = struct.pack(f"<{count}{_CONTENTS[tensor.datatype][1]}", *values)
        except struct.error:
            raise invalid(
                f"{field}.contents", f"an element is out of the range of {tensor.datatype}"
            ) from None
    tensor.ClearField("contents")
    request.raw_input_contents.append(packed)


def input_texts(request: inference_pb2.ModelInferRequest) -> list[str]:
    """Return the elements of all BYTES inputs; raise a Refusal when one is not UTF-8.

    `make_raw` has been called.
    """
    texts = []
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype != BYTES:
            continue
        field = f"inputs[{index}]"
        for number, element in enumerate(split_elements(request.raw_input_contents[index], field)):
            try:
                texts.append(element.decode())
            except UnicodeDecodeError:
                raise invalid(field, f"element {number} is not UTF-8", "NOT_UTF8") from None
    return texts


def replace_input_texts(request: inference_pb2.ModelInferRequest, texts: Sequence[str]) -> None:
    """Put texts in the place of those that `input_texts` returned."""
    queue = iter(texts)
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype == BYTES:
            count = len(split_elements(request.raw_input_contents[index], f"inputs[{index}]"))
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
