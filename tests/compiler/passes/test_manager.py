from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from compiler.bundling.inspect import inspect_onnx
from compiler.errors import PassError, QuantizationError
from compiler.passes.base import FOLDED
from compiler.passes.manager import default_passes, optimize_onnx, order_passes, run_passes
from compiler.passes.shape_inference import ShapeInference
from compiler.passes.unused import Unused
from tests.compiler.passes.graphs import operators, run, tiny_encoder, tiny_texts


class Breaking:
    """A pass that does not keep its word."""

    name = "breaking"
    needs: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset({"broken"})

    def __init__(self, how: str) -> None:
        self._how = how

    def run(self, model: ModelProto) -> ModelProto:
        graph = model.graph
        if self._how == "numbers":
            tensor = next(t for t in graph.initializer if t.name.endswith("LayerNorm.weight"))
            changed = numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        elif self._how == "interface":
            graph.output[0].name = graph.node[-2].output[0]
        else:
            del graph.node[3]
        return model


def test_passes_are_ordered_by_need_and_a_need_that_nothing_meets_is_named() -> None:
    shuffled = list(reversed(default_passes()))
    states: set[str] = set()
    for step in order_passes(shuffled):
        assert step.needs <= states
        states |= step.ensures
    assert FOLDED in states
    with pytest.raises(PassError, match=r"shape-inference needs .*folded"):
        order_passes([ShapeInference()])
    with pytest.raises(PassError, match="unused needs"):
        order_passes([Unused()])


@pytest.mark.parametrize("how", ["numbers", "interface", "validity"])
def test_a_pass_that_changes_the_graph_is_named(tmp_path: Path, how: str) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    with pytest.raises(PassError, match="the pass breaking"):
        run_passes(model, [*default_passes(), Breaking(how)], check=[tiny_texts()])


def test_inputs_that_do_not_fit_are_refused_before_any_pass(tmp_path: Path) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    with pytest.raises(QuantizationError, match="needs the inputs attention_mask"):
        run_passes(model, default_passes(), check=[{"input_ids": np.ones((1, 2), np.int64)}])


@pytest.mark.parametrize("fuse", [False, True])
def test_a_file_keeps_its_numbers_and_passes_the_preparser(tmp_path: Path, fuse: bool) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    expected = run(model, tiny_texts())
    source, out, again = (tmp_path / name for name in ("in.onnx", "out.onnx", "again.onnx"))
    source.write_bytes(model.SerializeToString())
    for path in (out, again):
        optimize_onnx(source, path, check=[tiny_texts()], fuse=fuse)
    assert out.read_bytes() == again.read_bytes()
    inspect_onnx(out)
    found = onnx.load(out)
    np.testing.assert_allclose(run(found, tiny_texts())[0], expected[0], atol=1e-5)
    assert "Identity" not in operators(found)
    assert len(operators(found)) < len(operators(model))
    if fuse:
        assert "SkipLayerNormalization" in operators(found)
        assert "BiasGelu" in operators(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.onnx",
        "in.onnx",
        "m",
        "out.onnx",
    ]


def test_a_pass_that_fails_leaves_no_file(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["nowhere"], ["y"])]
    value = helper.make_tensor_value_info("y", 1, [1])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [value]))
    source = tmp_path / "in.onnx"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(PassError, match="invalid"):
        optimize_onnx(source, tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]
