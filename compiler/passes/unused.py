"""Remove what no output depends on: nodes, initializers, optional outputs, descriptions."""

from __future__ import annotations

from onnx import ModelProto

from compiler.passes.base import ALL_USED, NO_TRAINING, UNIQUE_CONSTANTS, UNIQUE_EXPRESSIONS
from compiler.passes.graph import (
    constants,
    defined,
    outer_names,
    remove_initializers,
    replace_nodes,
    uses,
)

# Operators whose last results may be left out; of Split or Loop, their number has a meaning.
_OPTIONAL_RESULTS = frozenset(
    {"Dropout", "GRU", "LSTM", "LayerNormalization", "MaxPool", "RNN", "SkipLayerNormalization"}
)


class Unused:
    """Walk from the outputs back, keep what is reached.

    Inputs stay, since they are the interface. Descriptions, and metadata about where an
    exporter ran, go: they change with folders and versions, and nothing reads them.
    """

    name = "unused"
    needs = frozenset({NO_TRAINING, UNIQUE_CONSTANTS, UNIQUE_EXPRESSIONS})
    ensures = frozenset({ALL_USED})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model in which everything of the main graph reaches an output."""
        graph = model.graph
        needed = {value.name for value in graph.output}
        kept = []
        for node in reversed(graph.node):
            if needed.isdisjoint(node.output):
                continue
            needed |= outer_names(node)
            kept.append(node)
        kept.reverse()
        replace_nodes(graph, kept)
        # A constant that is also an input stays: without it the input would have to be given.
        remove_initializers(graph, constants(graph).keys() - needed)
        counts = uses(graph)
        for node in graph.node:
            if node.op_type in _OPTIONAL_RESULTS:
                while len(node.output) > 1 and not counts[node.output[-1]]:
                    del node.output[-1]
            node.doc_string = ""
            del node.metadata_props[:]
        present = defined(graph)
        values = [value for value in graph.value_info if value.name in present]
        del graph.value_info[:]
        graph.value_info.extend(values)
        graph.doc_string = model.doc_string = ""
        del model.metadata_props[:], graph.metadata_props[:]
        return model
