"""Nodes that compute the same value become one.

Two nodes are the same when operator, attributes, inputs and number of outputs are; the
order of the inputs does not count where the operator commutes. Random operators and nodes
with subgraphs are never joined.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from compiler.passes.base import CONSTANTS_NAMED, UNIQUE_CONSTANTS, UNIQUE_EXPRESSIONS
from compiler.passes.graph import rename_uses, replace_nodes, subgraphs

_RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# With exactly two inputs; a sum in floating point commutes too, it only does not associate.
_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min"})


class CommonSubexpressions:
    """Let all uses of a repeated value use the first node that computes it."""

    name = "common-subexpressions"
    needs = frozenset({CONSTANTS_NAMED, UNIQUE_CONSTANTS})
    ensures = frozenset({UNIQUE_EXPRESSIONS})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model in which the main graph computes nothing twice."""
        graph = model.graph
        outputs = {value.name for value in graph.output}
        first: dict[tuple[object, ...], NodeProto] = {}
        same: dict[str, str] = {}
        kept = []
        for node in graph.node:
            key = _key(node, same)
            twin = first.get(key) if key is not None else None
            # The name of a graph's output is its caller's: that node stays.
            if twin is None or outputs.intersection(node.output):
                kept.append(node)
                if key is not None:
                    first.setdefault(key, node)
            else:
                pairs = zip(node.output, twin.output, strict=True)
                same.update({old: new for old, new in pairs if old})
        if same:
            replace_nodes(graph, kept)
            rename_uses(graph, same)
        return model


def _key(node: NodeProto, same: dict[str, str]) -> tuple[object, ...] | None:
    if node.op_type in _RANDOM or any(True for _ in subgraphs(node)):
        return None
    inputs = [same.get(name, name) for name in node.input]
    if node.op_type in _COMMUTATIVE and len(inputs) == 2:
        inputs.sort()
    attributes = sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
    # Which optional outputs are computed is part of what is computed.
    present = tuple(bool(name) for name in node.output)
    return (node.domain, node.op_type, tuple(inputs), tuple(attributes), present)
