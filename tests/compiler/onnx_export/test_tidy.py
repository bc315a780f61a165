"""What the tracer may write, as graphs that are smaller than a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.onnx_export.tidy import tidy
from tests.compiler.onnx_export.comparing import open_graph


@pytest.mark.parametrize("order", [[0, 1], [1, 0], None], ids=str)
def test_a_matrix_is_turned_only_where_the_graph_turns_it(
    tmp_path: Path, order: list[int] | None
) -> None:
    weight = np.arange(9, dtype=np.float32).reshape(3, 3)
    given = np.array([[1, 2, 3]], np.float32)
    turn = helper.make_node("Transpose", ["w"], ["t"], **({"perm": order} if order else {}))
    graph = helper.make_graph(
        [turn, helper.make_node("MatMul", ["x", "t"], ["y"])],
        "traced",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    tidied = tidy(
        helper.make_model(graph), ["x"], ["y"], {"w": (3, 3)}, opset=17, fold_positions=False
    )
    for value, (name, transposed) in tidied.weights.items():
        assert name == "w"
        array = np.ascontiguousarray(weight.T) if transposed else weight
        tidied.model.graph.initializer.append(numpy_helper.from_array(array, value))
    path = tmp_path / "model.onnx"
    path.write_bytes(tidied.model.SerializeToString())
    expected = given @ (weight if order == [0, 1] else weight.T)
    np.testing.assert_array_equal(open_graph(path).run(None, {"x": given})[0], expected)
