"""Matrix products in 8 bits: activations unsigned, weights signed (U8S8).

A weight w of a column becomes q = round(w / s) with s = max|w| / 127 over the column (or
over the matrix), symmetric, so that the products need no correction by a zero point.
Activations get scale and zero point from the range of the whole tensor, either while the
graph runs (dynamic) or from calibration (static).

Without VNNI, x86 adds two products of 8 bits in 16, which saturates; weights of 7 bits
(|q| <= 64) keep 2 * 255 * 64 below 2^15: `reduce_range`.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference, 2018; DynamicQuantizeLinear of the ONNX operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from compiler.errors import QuantizationError
from compiler.onnx_quantize.edit import MICROSOFT, GraphEdit
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.onnx_quantize.sites import Site, matrix

_FULL, _REDUCED = 127, 64
_LEAST_SCALE = 1e-12
_TABLE_ROWS = 4096
# From which on the operators exist with what is used of them.
_DYNAMIC_OPSET, _PER_AXIS_OPSET = 11, 13


def quantize_matrix(
    weight: NDArray[np.float32], plan: OnnxPlan
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return INT8 [summed, columns] and scales FP32 [columns], or [] for one in all."""
    limit = _REDUCED if plan.reduce_range else _FULL
    largest = np.abs(weight).max(axis=0 if plan.per_channel else None)
    scale = np.maximum(largest / limit, _LEAST_SCALE).astype(np.float32)
    packed = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
    return packed, np.asarray(scale, np.float32)


def add_dynamic(edit: GraphEdit, model: ModelProto, sites: Sequence[Site], plan: OnnxPlan) -> None:
    """Replace matrix products by ones in 8 bits whose ranges are taken while running.

    An activation that several products share is quantized once for all of them.
    """
    shared = Counter(site.activation for site in sites)
    quantized: set[str] = set()
    for site in sites:
        packed, scale = quantize_matrix(matrix(model, site), plan)
        name = site.tensor + ("_t" if site.transposed else "")
        weight = edit.constant(name, "int8", packed)
        scales = edit.constant(name, "scale", scale)
        bias = site.bias or ""
        edit.remove(site)
        if shared[site.activation] == 1 or edit.opset() < _DYNAMIC_OPSET:
            inputs = [site.activation, weight, scales, "", bias]
            edit.node(
                site.node, "DynamicQuantizeMatMul", _trim(inputs), [site.output], domain=MICROSOFT
            )
            continue
        parts = [edit.value(site.activation, part) for part in ("uint8", "scale", "zero")]
        if site.activation not in quantized:
            quantized.add(site.activation)
            edit.node(site.node, "DynamicQuantizeLinear", [site.activation], parts)
        inputs = [parts[0], weight, parts[1], scales, parts[2], "", bias]
        edit.node(site.node, "MatMulIntegerToFloat", _trim(inputs), [site.output], domain=MICROSOFT)


def add_static(
    edit: GraphEdit,
    model: ModelProto,
    sites: Sequence[Site],
    plan: OnnxPlan,
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Put QuantizeLinear/DequantizeLinear pairs around matrix products.

    Args:
        edit, model, sites, plan: as `add_dynamic`.
        ranges: of each activation, from calibration.

    Raises:
        QuantizationError: the graph's operators are older than scales by column.
    """
    if edit.opset() < _PER_AXIS_OPSET:
        raise QuantizationError(f"static_int8 needs a graph of opset {_PER_AXIS_OPSET} or later")
    done: set[str] = set()
    for site in sites:
        packed, scale = quantize_matrix(matrix(model, site), plan)
        name = site.tensor + ("_t" if site.transposed else "")
        weight = edit.constant(name, "int8", packed)
        scales = edit.constant(name, "scale", scale)
        zeros = edit.constant(name, "zero", np.zeros(scale.shape, np.int8))
        whole = edit.value(site.output, "weight")
        axis: dict[str, Any] = {"axis": 1} if scale.ndim else {}
        edit.remove(site)
        edit.node(site.node, "DequantizeLinear", [weight, scales, zeros], [whole], **axis)
        wide = edit.value(site.activation, "float")
        if site.activation not in done:
            done.add(site.activation)
            _add_activation(edit, site, ranges[site.activation], wide)
        if site.bias is None:
            edit.node(site.node, "MatMul", [wide, whole], [site.output])
        else:
            product = edit.value(site.output, "product")
            edit.node(site.node, "MatMul", [wide, whole], [product])
            edit.node(site.node, "Add", [product, site.bias], [site.output])


def _add_activation(edit: GraphEdit, site: Site, span: tuple[float, float], wide: str) -> None:
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    step = max((high - low) / 255.0, _LEAST_SCALE)
    zero = int(np.clip(round(-low / step), 0, 255))
    scale = edit.constant(site.activation, "scale", np.array(step, np.float32))
    point = edit.constant(site.activation, "zero", np.array(zero, np.uint8))
    narrow = edit.value(site.activation, "uint8")
    edit.node(site.node, "QuantizeLinear", [site.activation, scale, point], [narrow])
    edit.node(site.node, "DequantizeLinear", [narrow, scale, point], [wide])


def quantize_table(
    table: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return INT8 [rows, width] and scales FP32 [rows, 1].

    Some rows at a time: a table of words is half of a small model, and each step of the
    arithmetic would be another copy of it.
    """
    packed = np.empty(table.shape, np.int8)
    scale = np.empty((len(table), 1), np.float32)
    for start in range(0, len(table), _TABLE_ROWS):
        some = slice(start, start + _TABLE_ROWS)
        largest = np.abs(table[some]).max(axis=1, keepdims=True)
        scale[some] = np.maximum(largest / _FULL, _LEAST_SCALE)
        packed[some] = np.rint(table[some] / scale[some])
    return packed, scale


def add_tables(edit: GraphEdit, model: ModelProto, sites: Sequence[Site]) -> None:
    """Store looked-up tables in 8 bits, with a scale for each row, in plain ONNX operators."""
    for site in sites:
        packed, scale = quantize_table(matrix(model, site))
        rows, scales = (edit.value(site.output, part) for part in ("rows", "scales"))
        wide = edit.value(site.output, "wide")
        weight = edit.constant(site.tensor, "rows_int8", packed)
        steps = edit.constant(site.tensor, "rows_scale", scale)
        edit.remove(site)
        edit.node(site.node, "Gather", [weight, site.activation], [rows], axis=0)
        edit.node(site.node, "Gather", [steps, site.activation], [scales], axis=0)
        edit.node(site.node, "Cast", [rows], [wide], to=1)
        edit.node(site.node, "Mul", [wide, scales], [site.output])


def _trim(inputs: list[str]) -> list[str]:
    """Drop the optional inputs at the end that are not given."""
    while not inputs[-1]:
        inputs = inputs[:-1]
    return inputs
