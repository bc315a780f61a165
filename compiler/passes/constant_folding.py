"""Compute what depends on constants alone.

Nodes are evaluated one at a time by onnx's reference implementation, which is plain Python:
no native parser sees a part of the graph here. Left alone: nodes with subgraphs, random
ones, other domains than ONNX's own, what the reference cannot compute, dequantization and
casts that widen (folding those would undo a quantization), and whatever would make the file
grow: a result of more than 64 KiB that is larger than its inputs, or whose inputs other
nodes still use, as the transposed table of a tied output layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler.passes.base import CONSTANTS_NAMED, FOLDED
from compiler.passes.graph import constants, replace_nodes, subgraphs, uses

_SMALL_BYTES = 64 << 10
_TOO_MANY = 1 << 62
_NEVER = frozenset(
    {
        "Bernoulli",
        "DequantizeLinear",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# Of these, the result is as large as the inputs at most, whatever the constants hold; for
# others the numbers decide, and a hostile file may ask Expand or Range for terabytes.
_NEVER_LARGER = frozenset(
    {
        "Cast",
        "Concat",
        "Flatten",
        "Gather",
        "Identity",
        "Neg",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Sqrt",
        "Reciprocal",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Equal", "Where", "Less", "Greater"})
_FOLDABLE = _NEVER_LARGER | _ELEMENTWISE | {"ConstantOfShape", "Expand", "Range"}


class ConstantFolding:
    """Replace nodes whose inputs are all constants by initializers."""

    name = "constant-folding"
    needs = frozenset({CONSTANTS_NAMED})
    ensures = frozenset({FOLDED})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model with constant nodes of the main graph computed."""
        graph = model.graph
        known = constants(graph)
        outputs = {value.name for value in graph.output}
        opsets, used = list(model.opset_import), uses(graph)
        kept: list[NodeProto] = []
        for node in graph.node:
            results = None
            if _foldable(node, known, outputs):
                results = _evaluate(node, known, used, opsets, model.ir_version)
            if results is None:
                kept.append(node)
                continue
            for tensor in results:
                graph.initializer.append(tensor)
                known[tensor.name] = graph.initializer[-1]
        if len(kept) < len(graph.node):
            replace_nodes(graph, kept)
        return model


def _foldable(node: NodeProto, known: dict[str, TensorProto], outputs: set[str]) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type in _FOLDABLE
        and node.op_type not in _NEVER
        and all(name in known for name in node.input if name)
        and not outputs.intersection(node.output)
        and not any(True for _ in subgraphs(node))
    )


def _evaluate(
    node: NodeProto,
    known: dict[str, TensorProto],
    used: Mapping[str, int],
    opsets: list[Any],
    ir_version: int,
) -> list[TensorProto] | None:
    feeds = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
    freed = [array.nbytes for name, array in feeds.items() if used[name] == 1]
    limit = max([*freed, _SMALL_BYTES])
    if _size_asked_for(node, feeds) > limit:
        return None
    inputs = [
        helper.make_tensor_value_info(name, known[name].data_type, list(known[name].dims))
        for name in feeds
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], "one", inputs, [helper.make_empty_tensor_value_info(name) for name in names]
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    try:
        results = ReferenceEvaluator(model).run(None, feeds)
    # Whatever it cannot do is left in the graph.
    except Exception:
        return None
    if not all(isinstance(item, np.ndarray | np.generic) for item in results):
        return None
    arrays: list[NDArray[Any]] = [np.asarray(item, order="C") for item in results]
    if sum(array.nbytes for array in arrays) > limit:
        return None
    return [numpy_helper.from_array(a, name) for a, name in zip(arrays, names, strict=True)]


def _size_asked_for(node: NodeProto, feeds: dict[str, NDArray[Any]]) -> int:
    """Return about how many bytes the result takes, before it is made."""
    arrays = [feeds[name] for name in node.input if name]
    try:
        return 8 * _elements(node.op_type, arrays)
    # Arguments that do not fit together.
    except (ValueError, ZeroDivisionError, IndexError, OverflowError):
        return _TOO_MANY


def _elements(operator: str, arrays: list[NDArray[Any]]) -> int:
    """Return a bound on the result's elements, or 0 where the inputs bound them."""
    if operator in ("ConstantOfShape", "Expand"):
        wanted = [int(size) for size in arrays[-1].reshape(-1)]
        shapes = [tuple(wanted), *(array.shape for array in arrays[:-1])]
        return _TOO_MANY if min(wanted, default=0) < 0 else _broadcast_size(shapes)
    if operator == "Range":
        start, limit, step = (float(array.reshape(-1)[0]) for array in arrays)
        return int(abs(limit - start) / abs(step))
    if operator in _ELEMENTWISE:
        return _broadcast_size([array.shape for array in arrays])
    if operator == "Gather":
        table, indices = arrays
        # Along the shortest axis, a row is largest.
        shortest: int = max(1, min(table.shape))
        return int(table.size) // shortest * int(indices.size)
    return 0


def _broadcast_size(shapes: list[tuple[int, ...]]) -> int:
    size: int = math.prod(int(length) for length in np.broadcast_shapes(*shapes))
    return size
