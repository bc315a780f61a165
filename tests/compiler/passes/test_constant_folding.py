from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
from onnx import ModelProto, TensorProto, helper

from compiler.passes.constant_folding import ConstantFolding
from tests.compiler.passes.graphs import model_of, operators, run

X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_a_chain_of_constants_becomes_one_initializer_with_the_same_numbers() -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("Mul", ["wt", "two"], ["w2"]),
        helper.make_node("MatMul", ["x", "w2"], ["y"]),
    ]
    model = model_of(
        nodes,
        {"w": weight, "two": np.array(2, np.float32)},
        inputs={"x": ["n", 3]},
        outputs={"y": ["n", 4]},
    )
    before = run(model, X)
    folded = ConstantFolding().run(model)
    assert operators(folded) == ["MatMul"]
    np.testing.assert_array_equal(run(folded, X)[0], before[0])


def test_quantized_weights_stay_quantized() -> None:
    packed, scale = np.ones((64, 64), np.int8), np.array(0.5, np.float32)
    half = np.ones((256, 64), np.float16)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("Cast", ["half"], ["wide"], to=1),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("MatMul", ["wide", "m"], ["y"]),
    ]
    model = model_of(
        nodes,
        {"q": packed, "s": scale, "half": half.repeat(4, axis=0)},
        inputs={"x": [64, 3]},
        outputs={"y": ["a", "b"]},
    )
    assert "DequantizeLinear" in operators(ConstantFolding().run(model))
    assert "Cast" in operators(model)


def test_a_shape_that_asks_for_terabytes_is_left_alone() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("Expand", ["one", "huge"], ["ones"]),
        helper.make_node("Add", ["zeros", "ones"], ["y"]),
    ]
    constants = {"huge": np.array([1 << 40, 1 << 20]), "one": np.ones(1, np.float32)}
    model = model_of(nodes, constants, inputs={}, outputs={"y": ["a", "b"]})
    assert operators(ConstantFolding().run(model)) == ["ConstantOfShape", "Expand", "Add"]


def held(model: ModelProto) -> int:
    return sum(item.ByteSize() for item in model.graph.initializer)


def test_a_constant_that_is_joined_with_itself_many_times_is_left_alone() -> None:
    nodes = [
        helper.make_node("Concat", ["c"] * 300, ["d"], axis=0),
        helper.make_node("Shape", ["d"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=1),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    constants = {"c": np.zeros(1 << 15, np.float32)}
    model = model_of(nodes, constants, inputs={"x": ["n"]}, outputs={"y": ["n"]})
    tracemalloc.start()
    try:
        folded = ConstantFolding().run(model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert operators(folded) == ["Concat", "Shape", "Cast", "Add"]
    # Joined it takes 37 MiB.
    assert peak < 4 << 20


def test_many_small_results_are_bounded_together() -> None:
    count = 1000
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [f"c{n}"]) for n in range(count)]
    nodes.append(helper.make_node("Sum", ["x", *(f"c{n}" for n in range(count))], ["y"]))
    model = model_of(
        nodes, {"shape": np.array([8192])}, inputs={"x": [8192]}, outputs={"y": [8192]}
    )
    folded = ConstantFolding().run(model)
    assert 1 << 20 < held(folded) < 17 << 20
    assert operators(folded).count("ConstantOfShape") > 0


def test_a_chain_keeps_its_end_alone() -> None:
    names = [f"w{n}" for n in range(50)]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    nodes.append(helper.make_node("Add", ["x", names[-1]], ["y"]))
    weight = np.ones(1 << 16, np.float32)
    model = model_of(nodes, {"w0": weight}, inputs={"x": ["n"]}, outputs={"y": ["n"]})
    folded = ConstantFolding().run(model)
    assert operators(folded) == ["Add"]
    assert {item.name for item in folded.graph.initializer} == {"w0", "w49"}


def test_texts_are_left_alone() -> None:
    # An array of them is pointers; the file would hold each text as often as it is named.
    nodes = [
        helper.make_node("Concat", ["long"] * 100, ["many"], axis=0),
        helper.make_node("Equal", ["x", "many"], ["y"]),
    ]
    model = model_of(nodes, {}, inputs={"x": [100]}, outputs={"y": [100]})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    model.graph.initializer.append(
        helper.make_tensor("long", TensorProto.STRING, [1], [b"x" * (1 << 16)])
    )
    assert held(ConstantFolding().run(model)) < 1 << 17


def test_arguments_that_fit_nothing_are_left_alone() -> None:
    nodes = [
        helper.make_node("Reshape", ["one", "bad"], ["r"]),
        helper.make_node("Range", ["one", "two", "zero"], ["t"]),
        helper.make_node("Add", ["r", "t"], ["y"]),
    ]
    constants = {
        "one": np.ones(1, np.float32),
        "two": np.array([2], np.float32),
        "zero": np.array([0], np.float32),
        "bad": np.array([5, 5]),
    }
    model = model_of(nodes, constants, inputs={}, outputs={"y": ["a"]})
    assert operators(ConstantFolding().run(model)) == ["Reshape", "Range", "Add"]


def test_a_tied_table_is_not_stored_twice() -> None:
    table = np.ones((300, 128), np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    shapes = {"x": ["n", 128]}
    model = model_of(nodes, {"w": table}, inputs=shapes, outputs={"y": ["n", 128]})
    assert operators(ConstantFolding().run(model)) == ["Transpose", "MatMul", "MatMul"]


def test_an_initializer_that_a_caller_may_override_is_no_constant() -> None:
    nodes = [helper.make_node("Neg", ["w"], ["m"]), helper.make_node("Add", ["x", "m"], ["y"])]
    shapes = {"x": ["n", 3], "w": [3]}
    model = model_of(nodes, {"w": np.ones(3, np.float32)}, inputs=shapes, outputs={"y": ["n", 3]})
    assert operators(ConstantFolding().run(model)) == ["Neg", "Add"]
