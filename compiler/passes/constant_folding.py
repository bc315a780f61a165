"""Compute what depends on constants alone.

Nodes are evaluated one at a time by onnx's reference implementation, which is plain Python:
no native parser sees a part of the graph here. Left alone: nodes with subgraphs, random
ones, other domains than ONNX's own, what the reference cannot compute, dequantization and
casts that widen (folding those would undo a quantization), and whatever would make the file
grow: a result of more than 64 KiB that is larger than the inputs that go with it (those that
no other node uses, unlike the transposed table of a tied output layer).

Invariants: how large a result will be is known before it is computed; all that is held at once
is the file's constants and 16 MiB at most, whatever the graph says.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler.passes.base import CONSTANTS_NAMED, FOLDED
from compiler.passes.graph import constants, replace_nodes, subgraphs, uses

_SMALL_BYTES = 64 << 10
# By which all small results together may be larger than what they replace.
_GROWTH_BYTES = 16 << 20
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
# Of these, the result is as large as the inputs at most, whatever the constants hold (each
# counted as often as it is named); for others the numbers decide, and a hostile file may ask
# Expand or Range for terabytes.
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
        known = _Known(constants(graph), uses(graph))
        outputs = {value.name for value in graph.output}
        kept = [
            node
            for node in graph.node
            if not (_foldable(node, known, outputs) and _folded(node, known, model))
        ]
        if len(kept) < len(graph.node):
            replace_nodes(graph, kept)
            graph.initializer.extend(
                numpy_helper.from_array(array, name) for name, array in known.made.items()
            )
        return model


@dataclass(slots=True)
class _Known:
    """The constants of a graph while it is folded.

    Attributes:
        stored: those of the file.
        uses: how often each name is used by what is not folded yet.
        made: results, as long as something uses them.
        room: bytes by which all may still grow.
    """

    stored: dict[str, TensorProto]
    uses: Counter[str]
    made: dict[str, NDArray[Any]] = field(default_factory=dict)
    room: int = _GROWTH_BYTES

    def __contains__(self, name: str) -> bool:
        return name in self.stored or name in self.made

    def array(self, name: str) -> NDArray[Any]:
        made = self.made.get(name)
        return numpy_helper.to_array(self.stored[name]) if made is None else made

    def freed(self, names: Counter[str]) -> set[str]:
        """Return those that nothing uses any more after these uses."""
        return {name for name, count in names.items() if self.uses[name] == count}

    def replace(self, names: Counter[str], results: dict[str, NDArray[Any]], growth: int) -> None:
        """Take the uses away, and have the results in their place."""
        for name in self.freed(names):
            self.made.pop(name, None)
        self.uses -= names
        self.made |= {name: array for name, array in results.items() if self.uses[name]}
        self.room -= max(0, growth)


def _foldable(node: NodeProto, known: _Known, outputs: set[str]) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type in _FOLDABLE
        and node.op_type not in _NEVER
        and all(name in known for name in node.input if name)
        and not outputs.intersection(node.output)
        and not any(True for _ in subgraphs(node))
    )


def _folded(node: NodeProto, known: _Known, model: ModelProto) -> bool:
    """Compute a node if that makes the file no larger; tell whether it was done."""
    names = Counter(name for name in node.input if name)
    feeds = {name: known.array(name) for name in names}
    freed = sum(feeds[name].nbytes for name in known.freed(names))
    limit = max(freed, min(_SMALL_BYTES, known.room))
    # How long texts are, an array of them does not say.
    texts = any(array.dtype.hasobject for array in feeds.values())
    if texts or _bytes_asked_for(node, feeds) > limit:
        return False
    results = _evaluate(node, feeds, model)
    size = sum(array.nbytes for array in results.values())
    if not results or size > limit:
        return False
    known.replace(names, results, size - freed)
    return True


def _evaluate(
    node: NodeProto, feeds: dict[str, NDArray[Any]], model: ModelProto
) -> dict[str, NDArray[Any]]:
    """Return a node's results by name; none where the reference cannot compute it."""
    names = [name for name in node.output if name]
    values = [helper.make_empty_tensor_value_info(name) for name in (*feeds, *names)]
    graph = helper.make_graph([node], "one", values[: len(feeds)], values[len(feeds) :])
    one = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    try:
        results = ReferenceEvaluator(one).run(None, feeds)
    # Whatever it cannot do is left in the graph.
    except Exception:
        return {}
    if not all(isinstance(item, np.ndarray | np.generic) for item in results):
        return {}
    arrays = [np.asarray(item, order="C") for item in results]
    if any(array.dtype.hasobject for array in arrays):
        return {}
    return dict(zip(names, arrays, strict=True))


def _bytes_asked_for(node: NodeProto, feeds: dict[str, NDArray[Any]]) -> int:
    """Return about how many bytes the result takes, before it is made."""
    arrays = [feeds[name] for name in node.input if name]
    if node.op_type == "Concat":
        return sum(array.nbytes for array in arrays)
    try:
        if node.op_type == "Cast":
            (to,) = (each.i for each in node.attribute if each.name == "to")
            return int(arrays[0].size * helper.tensor_dtype_to_np_dtype(to).itemsize)
        return 8 * _elements(node.op_type, arrays)
    # Arguments that do not fit together.
    except (ValueError, KeyError, ZeroDivisionError, IndexError, OverflowError):
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
