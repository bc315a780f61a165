"""Infer the types and shapes of values, which fusion and quantization ask for."""

from __future__ import annotations

from onnx import ModelProto, shape_inference

from compiler.passes.base import CONSTANTS_NAMED, FOLDED, SHAPES
from compiler.passes.graph import skeleton


class ShapeInference:
    """Fill `value_info` by ONNX's own inference, without a copy of the weights."""

    name = "shape-inference"
    needs = frozenset({CONSTANTS_NAMED, FOLDED})
    ensures = frozenset({SHAPES})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model with `value_info` for what could be inferred, sorted by name."""
        inferred = shape_inference.infer_shapes(skeleton(model), data_prop=True)
        present = {name for node in model.graph.node for name in node.output}
        values = [value for value in inferred.graph.value_info if value.name in present]
        del model.graph.value_info[:]
        model.graph.value_info.extend(sorted(values, key=lambda value: value.name))
        return model
