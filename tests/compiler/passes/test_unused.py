from __future__ import annotations

import numpy as np
from onnx import helper

from compiler.passes.unused import Unused
from tests.compiler.passes.graphs import model_of, operators, run

X = {"x": np.linspace(0, 2, 6, dtype=np.float32).reshape(2, 3)}
SHAPES = {"x": ["n", 3]}


def test_what_no_output_needs_goes() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["dead"]),
        helper.make_node("Add", ["dead", "w"], ["deader"]),
        helper.make_node("Add", ["x", "v"], ["y"], doc_string="/home/someone/model.py"),
    ]
    constants = {"w": np.ones(3, np.float32), "v": np.ones(3, np.float32)}
    model = model_of(nodes, constants, inputs=SHAPES, outputs={"y": ["n", 3]})
    model.metadata_props.add(key="where", value="/home/someone")
    before = run(model, X)
    after = Unused().run(model)
    assert operators(after) == ["Add"]
    assert [tensor.name for tensor in after.graph.initializer] == ["v"]
    assert b"someone" not in after.SerializeToString()
    np.testing.assert_array_equal(run(after, X)[0], before[0])


def test_the_number_of_parts_of_a_split_stays() -> None:
    nodes = [helper.make_node("Split", ["x", "sizes"], ["y", "rest"], axis=1)]
    constants = {"sizes": np.array([1, 2])}
    model = model_of(nodes, constants, inputs=SHAPES, outputs={"y": ["n", 1]})
    after = Unused().run(model)
    np.testing.assert_array_equal(run(after, X)[0], X["x"][:, :1])


def test_a_default_of_an_input_stays() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    shapes = {**SHAPES, "w": [3]}
    model = model_of(nodes, {"w": np.ones(3, np.float32)}, inputs=shapes, outputs={"y": ["n", 3]})
    assert run(Unused().run(model), X)
