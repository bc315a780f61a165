from __future__ import annotations

from pathlib import Path

import onnx

from compiler.bundling.inspect import inspect_onnx
from compiler.passes.writing import write_model
from tests.compiler.passes.graphs import tiny_encoder


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    model.doc_string = "x" * 300
    model.metadata_props.add(key="a", value="b")
    path = tmp_path / "model.onnx"
    write_model(model, path)
    found = onnx.load(path)
    assert found == model
    assert found.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    assert path.stat().st_size == model.ByteSize()
    inspect_onnx(path)
