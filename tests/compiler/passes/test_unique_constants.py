from __future__ import annotations

import numpy as np
from onnx import helper

from compiler.passes.unique_constants import UniqueConstants
from tests.compiler.passes.graphs import model_of, run

X = {"x": np.linspace(0, 2, 6, dtype=np.float32).reshape(2, 3)}
SHAPES = {"x": ["n", 3]}


def test_equal_constants_become_one_and_types_and_shapes_count() -> None:
    ones = np.ones(3, np.float32)
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["t"]),
        helper.make_node("Add", ["t", "c"], ["y"]),
    ]
    constants = {"a": ones, "b": ones.copy(), "c": ones.reshape(1, 3)}
    model = model_of(nodes, constants, inputs=SHAPES, outputs={"y": ["n", 3]})
    before = run(model, X)
    after = UniqueConstants().run(model)
    assert [tensor.name for tensor in after.graph.initializer] == ["a", "c"]
    np.testing.assert_array_equal(run(after, X)[0], before[0])


def test_equal_constants_written_in_two_ways_become_one() -> None:
    values = [1.0, -0.5, 3.0]
    nodes = [helper.make_node("Add", ["x", "a"], ["s"]), helper.make_node("Mul", ["s", "b"], ["y"])]
    model = model_of(
        nodes, {"a": np.array(values, np.float32)}, inputs=SHAPES, outputs={"y": ["n", 3]}
    )
    # Exporters write bytes or numbers, as they like.
    model.graph.initializer.append(helper.make_tensor("b", 1, [3], values))
    before = run(model, X)
    after = UniqueConstants().run(model)
    assert [tensor.name for tensor in after.graph.initializer] == ["a"]
    np.testing.assert_array_equal(run(after, X)[0], before[0])


def test_a_zero_and_a_negative_zero_stay_two() -> None:
    nodes = [helper.make_node("Div", ["x", "a"], ["s"]), helper.make_node("Div", ["s", "b"], ["y"])]
    constants = {"a": np.array(0.0, np.float32), "b": np.array(-0.0, np.float32)}
    model = model_of(nodes, constants, inputs=SHAPES, outputs={"y": ["n", 3]})
    assert len(UniqueConstants().run(model).graph.initializer) == 2


def test_a_subgraph_uses_the_constant_that_stays() -> None:
    def branch(name: str, constant: str) -> object:
        value = helper.make_tensor_value_info(name, 1, ["n", 3])
        return helper.make_graph(
            [helper.make_node("Add", ["x", constant], [name])], name, [], [value]
        )

    nodes = [
        helper.make_node(
            "If", ["flag"], ["y"], then_branch=branch("t", "b"), else_branch=branch("e", "a")
        )
    ]
    ones = np.ones(3, np.float32)
    constants = {"flag": np.array(True), "a": ones, "b": ones.copy()}
    model = model_of(nodes, constants, inputs=SHAPES, outputs={"y": ["n", 3]})
    before = run(model, X)
    after = UniqueConstants().run(model)
    assert [tensor.name for tensor in after.graph.initializer] == ["flag", "a"]
    np.testing.assert_array_equal(run(after, X)[0], before[0])


def test_outputs_and_what_a_caller_may_override_stay() -> None:
    ones = np.ones(3, np.float32)
    nodes = [helper.make_node("Sum", ["x", "a", "b", "own"], ["y"])]
    model = model_of(
        nodes,
        {"a": ones, "b": ones.copy(), "own": ones.copy()},
        inputs={**SHAPES, "own": [3]},
        outputs={"y": ["n", 3], "b": [3]},
    )
    after = UniqueConstants().run(model)
    assert [tensor.name for tensor in after.graph.initializer] == ["a", "b", "own"]
