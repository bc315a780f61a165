"""A model is in its file as it is in memory, whether it holds its weights or names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compiler.bundling.inspect import inspect_onnx
from compiler.errors import ExportError
from compiler.onnx_file import Weight, write_model
from tests.compiler.passes.graphs import model_of, tiny_encoder


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    model.doc_string = "x" * 300
    model.metadata_props.add(key="a", value="b")
    path = tmp_path / "model.onnx"
    write_model(path, model)
    found = onnx.load(path)
    assert found == model
    assert found.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    assert path.stat().st_size == model.ByteSize()
    inspect_onnx(path)


def test_weights_that_are_named_come_behind_those_that_are_held(tmp_path: Path) -> None:
    held, named = np.ones((3, 2), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        helper.make_node("MatMul", ["x", "held"], ["h"]),
        helper.make_node("MatMul", ["h", "named"], ["y"]),
    ]
    model = model_of(nodes, {"held": held}, inputs={"x": ["n", 3]}, outputs={"y": ["n", 3]})
    path = tmp_path / "model.onnx"
    write_model(path, model, [Weight("named", (2, 3), lambda: named)])
    found = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    assert list(found) == ["held", "named"]
    np.testing.assert_array_equal(found["named"], named)
    with pytest.raises(FileExistsError):
        write_model(path, model)


def test_what_protobuf_could_not_read_back_is_refused(tmp_path: Path) -> None:
    model = model_of([], {}, inputs={"x": ["n", 3]}, outputs={"x": ["n", 3]})
    large = Weight("w", (1 << 30,), lambda: pytest.fail("it is not to be read"))
    with pytest.raises(ExportError, match="2147483647; take a smaller model"):
        write_model(tmp_path / "model.onnx", model, [large])
    assert list(tmp_path.iterdir()) == []
