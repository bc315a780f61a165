"""The export as it runs: a process of its own, the same bytes each time, nothing left."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compiler.bundling.plan import Report
from compiler.errors import ExportError, SourceError
from compiler.onnx_export.export import export_onnx
from compiler.onnx_export.optimum_job import Job, Outcome, run_job
from compiler.onnx_export.optimum_process import perform
from tests.compiler.onnx_export.comparing import open_graph, run
from tests.support.tiny_models import tiny_encoder_dir
from trainer.embeddings.vectors import WordVectors


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def words(folder: Path) -> WordVectors:
    folder.mkdir()
    random = np.random.default_rng(4)
    inputs = random.standard_normal((9, 6)).astype(np.float32)
    vectors = WordVectors(inputs, inputs * np.float32(-2), np.arange(9), {"window": 5})
    vectors.save(folder)
    return vectors


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "model")
    labels: list[str] = []
    first = export_onnx(folder, tmp_path / "one", report=labels.append)
    # Neither where it lies nor what was exported before shows in the bytes.
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "renamed")
    second = export_onnx(moved, tmp_path / "elsewhere" / "two", run=perform)
    assert contents(first.folder) == contents(second.folder)
    assert {"model.onnx", "tokenizer.json", "config.json"} <= contents(first.folder).keys()
    assert str(tmp_path).encode() not in first.graph.read_bytes()
    assert first.peak_bytes is not None
    assert first.tools["optimum-onnx"] == "0.1.0"
    assert labels[0] == "looking at the model"
    assert "tracing model" in labels


def test_graphs_that_are_built_here_are_the_same_bytes(tmp_path: Path) -> None:
    words(tmp_path / "final")
    first = export_onnx(tmp_path / "final", tmp_path / "one")
    second = export_onnx(tmp_path / "final", tmp_path / "two")
    assert contents(first.folder) == contents(second.folder)
    assert first.peak_bytes is None


def test_word_embeddings_are_looked_up(tmp_path: Path) -> None:
    vectors = words(tmp_path / "final")
    export = export_onnx(tmp_path / "final", tmp_path / "onnx")
    assert export.task == "word-embedding"
    ids = np.array([[3, 1, 8], [2, 0, 0]])
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    found = run(open_graph(export.graph), {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_array_equal(found, vectors.inputs[ids] * mask[:, :, None])


def test_a_table_of_another_shape_than_the_configuration(tmp_path: Path) -> None:
    words(tmp_path / "final")
    tensors = {"input_embeddings": np.zeros((3, 6), np.float32)}
    save_file(tensors, tmp_path / "final" / "model.safetensors")
    with pytest.raises(SourceError, match="says \\(9, 6\\)"):
        export_onnx(tmp_path / "final", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(("opset", "ir"), [(18, 8), (19, 9), (20, 9)])
def test_opset_and_ir_version_are_pinned(tmp_path: Path, opset: int, ir: int) -> None:
    words(tmp_path / "final")
    export = export_onnx(tmp_path / "final", tmp_path / "onnx", opset=opset)
    assert (export.opset, export.ir_version) == (opset, ir)
    open_graph(export.graph)


def test_an_exporter_that_dies_takes_nothing_along(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "model")

    def killed(job: Job, report: Report) -> Outcome:
        def kill(label: str) -> None:
            report(label)
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
            os.kill(int(children.split()[-1]), signal.SIGKILL)

        return run_job(job, kill)

    with pytest.raises(ExportError, match="was killed by SIGKILL"):
        export_onnx(folder, tmp_path / "onnx", run=killed)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_interruption_ends_the_exporter_too(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "model")
    begun: list[int] = []

    def interrupt(label: str) -> None:
        if label == "loading the model":
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
            begun.append(int(children.split()[-1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_onnx(folder, tmp_path / "onnx", report=interrupt)
    assert not Path(f"/proc/{begun[0]}").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_change_meanwhile_are_noticed(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "model")

    def meanwhile(job: Job, report: Report) -> Outcome:
        outcome = perform(job, report)
        with (folder / "model.safetensors").open("ab") as file:
            file.write(b"\0")
        return outcome

    with pytest.raises(Exception, match="changed while it was exported"):
        export_onnx(folder, tmp_path / "onnx", run=meanwhile)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
