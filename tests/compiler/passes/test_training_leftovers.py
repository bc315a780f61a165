from __future__ import annotations

import numpy as np
from onnx import helper

from compiler.passes.training_leftovers import TrainingLeftovers
from tests.compiler.passes.graphs import model_of, operators, run

X = {"x": np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3)}
SHAPES = {"x": ["n", 3]}
CONSTANTS = {"ratio": np.array(0.5, np.float32), "off": np.array(False), "on": np.array(True)}


def test_copies_go_and_the_numbers_stay() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Dropout", ["b", "ratio", "off"], ["c", "mask"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Exp", ["d"], ["e"]),
        helper.make_node("Add", ["e", "d"], ["f"]),
        helper.make_node("Identity", ["f"], ["y"]),
    ]
    model = model_of(nodes, CONSTANTS, inputs=SHAPES, outputs={"y": ["n", 3]})
    before = run(model, X)
    after = TrainingLeftovers().run(model)
    assert operators(after) == ["Neg", "Exp", "Add"]
    assert [value.name for value in after.graph.output] == ["y"]
    np.testing.assert_array_equal(run(after, X)[0], before[0])


def test_dropout_that_is_on_or_whose_mask_is_used_stays() -> None:
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "on"], ["a"]),
        helper.make_node("Dropout", ["x", "ratio", "off"], ["b", "mask"]),
        helper.make_node("Where", ["mask", "a", "b"], ["y"]),
    ]
    model = model_of(nodes, CONSTANTS, inputs=SHAPES, outputs={"y": ["n", 3]})
    assert operators(TrainingLeftovers().run(model)) == ["Dropout", "Dropout", "Where"]


def test_a_copy_between_the_interface_stays() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Neg", ["x"], ["z"]),
        helper.make_node("Identity", ["z"], ["again"]),
    ]
    outputs = {"y": ["n", 3], "z": ["n", 3], "again": ["n", 3]}
    model = model_of(nodes, {}, inputs=SHAPES, outputs=outputs)
    before = run(model, X)
    after = TrainingLeftovers().run(model)
    for right, found in zip(before, run(after, X), strict=True):
        np.testing.assert_array_equal(right, found)
