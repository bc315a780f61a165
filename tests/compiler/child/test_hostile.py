"""Where a user stands lends no code; a model that asks for endless work or memory is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compiler.errors import ChildError, ChildKilledError
from compiler.onnx_measure.outputs import run_outputs
from tests.compiler.gguf_export.models import write_model
from tests.support.tiny_models import tiny_encoder_dir

# What the compiler and its children import, by the names that a folder could take.
TAKEN = (
    *("json", "numpy", "onnx", "onnxruntime", "llama_cpp", "gguf", "tokenizers", "ctypes"),
    *("compiler", "runtime", "security", "casemate", "encodings", "sitecustomize"),
)
TRAP = "open({!r}, 'w').close(); raise SystemExit('a module of the current directory ran')"


def trapped(folder: Path, sprung: Path) -> None:
    for name in TAKEN:
        (folder / f"{name}.py").write_text(TRAP.format(str(sprung)))
    (folder / "runtime").mkdir()
    for name in ("__init__.py", "probes.py"):
        (folder / "runtime" / name).write_text(TRAP.format(str(sprung)))


@pytest.mark.parametrize("make", [tiny_encoder_dir, write_model])
def test_a_model_folder_lends_no_modules(make: Callable[[Path], object], tmp_path: Path) -> None:
    model, sprung = tmp_path / "model", tmp_path / "sprung"
    make(model)
    trapped(model, sprung)
    program = Path(sys.executable).with_name("casemate")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [str(program), "compile", ".", "--no-tune", "-o", str(tmp_path / "bundle")],
        cwd=model,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not sprung.exists()
    assert (tmp_path / "bundle" / "probes.jsonl").is_file()


def endless(path: Path) -> Path:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["before", "before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
    )
    constants = [
        helper.make_tensor("rounds", TensorProto.INT64, [], [1 << 62]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        constants,
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_endless_work_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiler.child.job.DEFAULT_SECONDS", 3.0)
    with pytest.raises(ChildError, match="longer than 3 seconds, its time limit"):
        run_outputs(endless(tmp_path / "model.onnx"), [{"x": np.zeros(1, np.float32)}])


def greedy(path: Path) -> Path:
    """A few hundred bytes that ask for 8 GiB."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "greedy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("shape", TensorProto.INT64, [1], [1 << 31])],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_a_small_file_does_not_get_all_memory(tmp_path: Path) -> None:
    model = greedy(tmp_path / "model.onnx")
    with pytest.raises(ChildKilledError, match="not enough memory within its limit of 4096 MiB"):
        run_outputs(model, [{"x": np.zeros(1, np.float32)}])
