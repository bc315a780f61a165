from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from compiler.passes.common_subexpressions import CommonSubexpressions
from tests.compiler.passes.graphs import model_of, operators, run

X = {"x": np.linspace(0.1, 2, 6, dtype=np.float32).reshape(2, 3)}
SHAPES = {"x": ["n", 3]}


def test_a_value_computed_twice_is_computed_once() -> None:
    nodes = [
        helper.make_node("Sqrt", ["x"], ["a"]),
        helper.make_node("Sqrt", ["x"], ["b"]),
        helper.make_node("Add", ["a", "x"], ["c"]),
        helper.make_node("Add", ["x", "b"], ["d"]),
        helper.make_node("Mul", ["c", "d"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs=SHAPES, outputs={"y": ["n", 3]})
    before = run(model, X)
    after = CommonSubexpressions().run(model)
    assert operators(after) == ["Sqrt", "Add", "Mul"]
    np.testing.assert_array_equal(run(after, X)[0], before[0])


def test_attributes_and_the_order_of_a_difference_count() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["a"], axes=[0]),
        helper.make_node("ReduceMax", ["x"], ["b"], axes=[1]),
        helper.make_node("Sub", ["a", "b"], ["c"]),
        helper.make_node("Sub", ["b", "a"], ["d"]),
        helper.make_node("Sum", ["c", "d"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs=SHAPES, outputs={"y": ["n", 3]})
    assert len(operators(CommonSubexpressions().run(model))) == 5


def test_outputs_keep_their_names() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    model = model_of(nodes, {}, inputs=SHAPES, outputs={"y": ["n", 3], "z": ["n", 3]})
    after = CommonSubexpressions().run(model)
    assert len(run(after, X)) == 2


def test_random_numbers_are_not_joined() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"]),
        helper.make_node("RandomNormalLike", ["x"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs=SHAPES, outputs={"y": ["n", 3]})
    assert len(operators(CommonSubexpressions().run(model))) == 3


def test_a_subgraph_uses_the_value_that_stays() -> None:
    def branch(name: str, source: str) -> object:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])
        node = helper.make_node("Neg", [source], [name])
        return helper.make_graph([node], name, [], [value])

    nodes = [
        helper.make_node("Sqrt", ["x"], ["a"]),
        helper.make_node("Sqrt", ["x"], ["b"]),
        helper.make_node(
            "If", ["flag"], ["i"], then_branch=branch("t", "b"), else_branch=branch("e", "a")
        ),
        helper.make_node("Add", ["i", "a"], ["y"]),
    ]
    model = model_of(nodes, {"flag": np.array(True)}, inputs=SHAPES, outputs={"y": ["n", 3]})
    before = run(model, X)
    after = CommonSubexpressions().run(model)
    assert operators(after) == ["Sqrt", "If", "Add"]
    np.testing.assert_array_equal(run(after, X)[0], before[0])
