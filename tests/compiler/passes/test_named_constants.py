from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.passes.named_constants import NamedConstants
from tests.compiler.passes.graphs import model_of, operators, run

X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_constant_nodes_become_initializers() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node(
            "Constant", [], ["d"], value=numpy_helper.from_array(np.array([3], np.float32))
        ),
        helper.make_node("Add", ["x", "c"], ["s"]),
        helper.make_node("Mul", ["s", "d"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs={"x": ["n", 3]}, outputs={"y": ["n", 3]})
    before = run(model, X)
    named = NamedConstants().run(model)
    assert operators(named) == ["Add", "Mul"]
    np.testing.assert_array_equal(run(named, X)[0], before[0])


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value_float": 1.5}, np.array(1.5, np.float32)),
        ({"value_floats": [1.5, -2.0]}, np.array([1.5, -2.0], np.float32)),
        ({"value_int": -7}, np.array(-7, np.int64)),
        ({"value_ints": [1, 1 << 40]}, np.array([1, 1 << 40], np.int64)),
    ],
)
def test_each_way_to_write_a_constant(attribute: dict[str, Any], expected: Any) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], **attribute),
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["f"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs={}, outputs={"y": list(expected.shape)})
    named = NamedConstants().run(model)
    assert operators(named) == ["Cast", "Sum"]
    found = numpy_helper.to_array(named.graph.initializer[0])
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_constant_that_is_text_stays_as_it_is() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_string=b"text"),
        helper.make_node("Equal", ["c", "c"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs={}, outputs={"y": []}, opset=19)
    assert operators(NamedConstants().run(model)) == ["Constant", "Equal"]


def test_a_constant_inside_a_branch_stays_there() -> None:
    def branch(name: str, number: float) -> object:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [])
        node = helper.make_node("Constant", [], [name], value_float=float(number))
        return helper.make_graph([node], name, [], [value])

    nodes = [
        helper.make_node(
            "If", ["flag"], ["i"], then_branch=branch("t", 1), else_branch=branch("e", 2)
        ),
        helper.make_node("Add", ["x", "i"], ["y"]),
    ]
    model = model_of(
        nodes, {"flag": np.array(False)}, inputs={"x": ["n", 3]}, outputs={"y": ["n", 3]}
    )
    named = NamedConstants().run(model)
    assert [tensor.name for tensor in named.graph.initializer] == ["flag"]
    np.testing.assert_array_equal(run(named, X)[0], X["x"] + 2)
