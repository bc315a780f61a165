"""Remove what only training needed: Dropout, and the Identity nodes that exporters leave.

Dropout is removed where it does nothing: without a training_mode that could be true, and
with its mask unused.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from compiler.passes.base import CONSTANTS_NAMED, NO_TRAINING
from compiler.passes.graph import constants, defined, rename_uses, replace_nodes, uses


class TrainingLeftovers:
    """Let users of a node that copies its input use the input."""

    name = "training-leftovers"
    needs = frozenset({CONSTANTS_NAMED})
    ensures = frozenset({NO_TRAINING})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model without nodes of the main graph that copy a value.

        A copy that names an output of the graph is removed by giving its name to the node
        that computes the value; it stays where the value is an input, a constant or an output.
        """
        graph = model.graph
        known, used = constants(graph), uses(graph)
        outputs = {value.name for value in graph.output}
        makers = {name: node for node in graph.node for name in node.output if name}
        aliases: dict[str, str] = {}
        removed: set[int] = set()
        for node in graph.node:
            if not _copies(node, known, used):
                continue
            source, result = _end(node.input[0], aliases), node.output[0]
            if result not in outputs:
                aliases[result] = source
            elif source in makers and source not in outputs:
                # The maker takes the output's name, and so do all its other users.
                maker = makers[source]
                maker.output[list(maker.output).index(source)] = result
                makers[result] = maker
                aliases[source] = result
            else:
                continue
            removed.add(id(node))
        if removed:
            rename_uses(graph, aliases)
            replace_nodes(graph, [node for node in graph.node if id(node) not in removed])
            _drop_value_info(model)
        return model


def _end(name: str, aliases: dict[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def _copies(node: NodeProto, known: dict[str, TensorProto], used: dict[str, int]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or any(used.get(name) for name in node.output[1:]):
        return False
    if len(node.input) > 2 and node.input[2]:
        mode = known.get(node.input[2])
        return mode is not None and not numpy_helper.to_array(mode).any()
    return True


def _drop_value_info(model: ModelProto) -> None:
    present = defined(model.graph)
    kept = [value for value in model.graph.value_info if value.name in present]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
