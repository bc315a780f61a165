"""Constant nodes become initializers, so that later passes know one kind of constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.passes.base import CONSTANTS_NAMED
from compiler.passes.graph import replace_nodes


class NamedConstants:
    """Turn each Constant node of the main graph into an initializer of its output's name."""

    name = "named-constants"
    needs: frozenset[str] = frozenset()
    ensures = frozenset({CONSTANTS_NAMED})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model without Constant nodes; a sparse or text constant stays."""
        graph = model.graph
        kept = []
        for node in graph.node:
            tensor = _tensor(node)
            if tensor is None:
                kept.append(node)
            else:
                tensor.name = node.output[0]
                graph.initializer.append(tensor)
        if len(kept) < len(graph.node):
            replace_nodes(graph, kept)
        return model


def _tensor(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        copy = TensorProto()
        copy.CopyFrom(attribute.t)
        return copy
    types: dict[int, Any] = {
        AttributeProto.FLOAT: np.float32,
        AttributeProto.FLOATS: np.float32,
        AttributeProto.INT: np.int64,
        AttributeProto.INTS: np.int64,
    }
    if attribute.type not in types:
        return None
    value = helper.get_attribute_value(attribute)
    return numpy_helper.from_array(np.array(value, types[attribute.type]))
