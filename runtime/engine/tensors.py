"""Tensors as the engine sees them: names, datatypes and shapes of a graph, and checks.

Datatype names are those of the Open Inference Protocol. A dimension of any size is -1.
Refuses, naming the input: a missing, unknown or doubled input, another datatype or
shape than the graph's, NaN or infinity in a floating-point input, an unknown output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.engine.errors import InvalidRequest

Array = npt.NDArray[Any]

DTYPES: Mapping[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    # Elements are str: ONNX strings are text.
    "BYTES": np.object_,
}
MAX_RANK = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the graph's name for it.
        datatype: a key of `DTYPES`.
        shape: its dimensions, -1 where any size goes.
        batch: name of its first dimension where that is free, or empty.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batch: str = ""


def element_count(shape: Sequence[int], field: str) -> int:
    """Number of elements of a shape a client sent; raises InvalidRequest for a bad one."""
    if len(shape) > MAX_RANK:
        raise InvalidRequest(field, f"a tensor has at most {MAX_RANK} dimensions")
    if any(size < 0 for size in shape):
        raise InvalidRequest(field, "a dimension is negative")
    return math.prod(shape)


def check_shape(spec: TensorSpec, shape: Sequence[int], field: str) -> None:
    """Check a shape against the graph's; raises InvalidRequest."""
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            field, f"shape {list(shape)} does not fit the model's {list(spec.shape)}"
        )
    if 0 in shape:
        raise InvalidRequest(field, "the tensor is empty")


def check_finite(array: Array, field: str) -> None:
    """Refuse NaN and infinity in a floating-point tensor."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(field, "the tensor holds NaN or infinity")


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Check that `inputs` are exactly the graph's, with its datatypes and shapes."""
    known = {spec.name for spec in specs}
    for index, name in enumerate(inputs):
        if name not in known:
            raise InvalidRequest(f"inputs[{index}].name", "the model has no such input")
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            raise InvalidRequest("inputs", f"input {spec.name!r} is missing")
        field = f"inputs[{list(inputs).index(spec.name)}]"
        if array.dtype != np.dtype(DTYPES[spec.datatype]):
            raise InvalidRequest(f"{field}.datatype", f"the model wants {spec.datatype}")
        check_shape(spec, array.shape, f"{field}.shape")
        check_finite(array, field)


def check_outputs(specs: Sequence[TensorSpec], wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the outputs to compute: those wanted, or all; raises for an unknown one."""
    known = [spec.name for spec in specs]
    names = tuple(wanted)
    for index, name in enumerate(names):
        if name not in known:
            raise InvalidRequest(f"outputs[{index}].name", "the model has no such output")
    if len(set(names)) != len(names):
        raise InvalidRequest("outputs", "an output is asked for twice")
    return names or tuple(known)
