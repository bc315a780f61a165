from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from compiler.passes.manager import default_passes, run_passes
from compiler.passes.shape_inference import ShapeInference
from tests.compiler.passes.graphs import model_of, tiny_encoder


def shapes_of(model: ModelProto) -> dict[str, list[int | str]]:
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in model.graph.value_info
    }


def test_shapes_are_inferred(tmp_path: Path) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    result = run_passes(model, default_passes())
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in result.graph.value_info}
    normed = [node.output[0] for node in result.graph.node if node.op_type == "LayerNormalization"]
    assert normed
    assert all(shapes[name] == 3 for name in normed)


def test_a_batch_of_any_size_keeps_its_name_and_a_product_gets_its_width() -> None:
    # More than is kept of a weight where only its shape is asked for.
    weight = np.ones((3, 2000), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[1, 0]),
        helper.make_node("Neg", ["t"], ["y"]),
    ]
    model = model_of(nodes, {"w": weight}, inputs={"x": ["n", 3]}, outputs={"y": [2000, "n"]})
    inferred = ShapeInference().run(model)
    assert shapes_of(inferred) == {"m": ["n", 2000], "t": [2000, "n"]}
    assert {v.type.tensor_type.elem_type for v in inferred.graph.value_info} == {TensorProto.FLOAT}
    assert [tensor.name for tensor in inferred.graph.initializer] == ["w"]
    assert [value.name for value in inferred.graph.input] == ["x"]


def test_shapes_that_are_computed_in_the_graph_are_followed() -> None:
    nodes = [
        helper.make_node("Shape", ["w"], ["s"]),
        helper.make_node("Concat", ["one", "s"], ["target"], axis=0),
        helper.make_node("Expand", ["x", "target"], ["wide"]),
        helper.make_node("Neg", ["wide"], ["y"]),
    ]
    constants = {"w": np.ones((4, 3), np.float32), "one": np.array([5])}
    model = model_of(nodes, constants, inputs={"x": [1, 1, 3]}, outputs={"y": [5, 4, 3]})
    assert shapes_of(ShapeInference().run(model))["wide"] == [5, 4, 3]


def test_what_was_said_before_is_replaced() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    model = model_of(nodes, {}, inputs={"x": ["n", 3]}, outputs={"y": ["n", 3]})
    model.graph.value_info.append(helper.make_tensor_value_info("gone", TensorProto.FLOAT, [9]))
    assert shapes_of(ShapeInference().run(model)) == {"a": ["n", 3]}
