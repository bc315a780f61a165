"""Open Inference Protocol tensors to numpy arrays and back, for bundles of task "tensor".

Refuses, naming the field: a doubled name, an unknown datatype, contents whose size is
not the shape's, contents in both places, values out of the datatype's range, BYTES
that are not UTF-8. Whether the tensors fit the graph is checked by the engine.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2
from runtime.engine.errors import InvalidRequest
from runtime.engine.tensor_engine import TensorDone, TensorRequest
from runtime.engine.tensors import DTYPES, Array, TensorSpec, element_count
from runtime.worker.convert import deadline_of

_LENGTH = struct.Struct("<I")

# Which list of InferTensorContents holds each datatype. FP16 has none: raw only.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def tensor_request(work: worker_pb2.Submit) -> TensorRequest:
    """Return the engine's request; raises InvalidRequest."""
    wire = work.infer
    raw = wire.raw_input_contents
    if raw and len(raw) != len(wire.inputs):
        raise InvalidRequest("raw_input_contents", "there must be one entry per input")
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(wire.inputs):
        if tensor.name in inputs:
            raise InvalidRequest(f"inputs[{index}].name", "the input is given twice")
        inputs[tensor.name] = _array(tensor, raw[index] if raw else None, f"inputs[{index}]")
    outputs = tuple(output.name for output in wire.outputs)
    return TensorRequest(work.id, inputs, outputs, deadline_of(work))


def _array(
    tensor: inference_pb2.ModelInferRequest.InferInputTensor, raw: bytes | None, field: str
) -> Array:
    if tensor.datatype not in DTYPES:
        raise InvalidRequest(f"{field}.datatype", "unknown datatype")
    count = element_count(tensor.shape, f"{field}.shape")
    has_contents = tensor.HasField("contents") and tensor.contents.ByteSize() > 0
    if raw is not None and has_contents:
        raise InvalidRequest(f"{field}.contents", "contents are given raw as well")
    if raw is not None:
        flat = _from_raw(raw, tensor.datatype, count, field)
    else:
        flat = _from_contents(tensor.contents, tensor.datatype, count, field)
    return flat.reshape(tuple(tensor.shape))


def _from_raw(raw: bytes, datatype: str, count: int, field: str) -> Array:
    if datatype == "BYTES":
        return _strings(_split(raw, count, field), field)
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequest(
            field, f"{len(raw)} bytes do not fill the shape: {count * dtype.itemsize} would"
        )
    array = np.frombuffer(raw, dtype=dtype)
    if datatype == "BOOL" and raw.strip(b"\x00\x01"):
        raise InvalidRequest(field, "a BOOL element is neither 0 nor 1")
    return array


def _split(raw: bytes, count: int, field: str) -> list[bytes]:
    """Cut length-prefixed elements; exactly `count` must fill `raw`."""
    elements: list[bytes] = []
    start = 0
    while start < len(raw) and len(elements) < count:
        if len(raw) - start < _LENGTH.size:
            break
        (length,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size
        if length > len(raw) - start:
            break
        elements.append(raw[start : start + length])
        start += length
    if start != len(raw) or len(elements) != count:
        raise InvalidRequest(field, "the BYTES elements do not fill the shape")
    return elements


def _from_contents(
    contents: inference_pb2.InferTensorContents, datatype: str, count: int, field: str
) -> Array:
    name = _CONTENTS.get(datatype)
    if name is None:
        raise InvalidRequest(field, f"{datatype} is taken in raw_input_contents only")
    values: Sequence[object] = getattr(contents, name)
    if len(values) != count:
        raise InvalidRequest(field, f"{len(values)} elements in {name}; the shape has {count}")
    if datatype == "BYTES":
        return _strings([bytes(value) for value in contents.bytes_contents], field)
    try:
        # A list, because numpy wraps the integers of other sequences silently.
        return np.array(list(values), dtype=DTYPES[datatype])
    except OverflowError:
        raise InvalidRequest(field, f"an element is out of the range of {datatype}") from None


def _strings(elements: list[bytes], field: str) -> Array:
    array = np.empty(len(elements), dtype=np.object_)
    for index, element in enumerate(elements):
        try:
            array[index] = element.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(field, f"element {index} is not UTF-8") from None
    return array


def tensor_message(event: TensorDone, specs: Sequence[TensorSpec]) -> worker_pb2.FromWorker:
    """Return the result: every output raw, little-endian, in the order asked for."""
    datatypes = {spec.name: spec.datatype for spec in specs}
    response = inference_pb2.ModelInferResponse()
    for name, array in event.outputs.items():
        response.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        response.raw_output_contents.append(_raw(array))
    return worker_pb2.FromWorker(
        completed=worker_pb2.Completed(
            id=event.id, usage=text_pb2.Usage(), queue_ms=event.queue_ms, infer=response
        )
    )


def _raw(array: Array) -> bytes:
    if array.dtype == np.object_:
        elements = (str(value).encode() for value in array.ravel())
        return b"".join(_LENGTH.pack(len(element)) + element for element in elements)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()
