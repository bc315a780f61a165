"""Folders that cannot be exported are refused by name, and nothing is left of the attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from compiler.errors import SourceError
from compiler.onnx_export.export import export_onnx
from compiler.onnx_export.optimum_process import perform
from security.strictjson import JsonValue, canonical
from tests.support.tiny_models import tiny_classifier_dir

Defect = Callable[[Path], object]


def refused(folder: Path, **options: Any) -> str:
    out = folder.parent / "onnx"
    with pytest.raises(SourceError) as caught:
        export_onnx(folder, out, run=perform, **options)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    return str(caught.value)


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def twice(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(data)
    (folder / "model.safetensors").rename(folder / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"x": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lacking(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("classifier.weight"))


def infinite(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors["classifier.weight"].fill(np.inf))


def quantized(folder: Path) -> None:
    change(folder, quantization_config={"quant_method": "gptq"})


def code(folder: Path) -> None:
    change(folder, auto_map={"AutoModel": "modeling.Evil"})


DEFECTS: dict[str, tuple[Defect, str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "config is no object": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "no model type": (lambda folder: change(folder, model_type=None), "model_type"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "pickled": (pickled, "pickled weights can run code"),
    "cut short": (cut, "the file is truncated"),
    "a tensor in two files": (twice, "as another file does"),
    "weights elsewhere": (outside, "in the same folder alone"),
    "a weight is missing": (lacking, "lack classifier.weight"),
    "not finite": (infinite, "not finite numbers"),
    "quantized": (quantized, "weights are quantized"),
    "code of its own": (code, "never run"),
    "too many layers": (lambda f: change(f, num_hidden_layers=10**9), "not of one model"),
    "too few layers": (lambda f: change(f, num_hidden_layers=1), "no place for it"),
    "another width": (lambda f: change(f, hidden_size=32), "do not fit"),
    "a number of labels that is none": (
        lambda f: change(f, id2label=None, label2id=None, num_labels="x"),
        "needs 'num_labels' as an int",
    ),
    "endless labels": (
        lambda f: change(f, id2label=None, label2id=None, num_labels=float("inf")),
        "needs 'num_labels' as an int",
    ),
    "unknown to transformers": (lambda f: change(f, model_type="frobnicate"), "transformers"),
    "unknown to us": (lambda f: change(f, model_type="casemate-frobnicate"), "casemate-recurrent"),
    "chooses among texts": (
        lambda f: change(f, architectures=["BertForMultipleChoice"]),
        "ForQuestionAnswering (question-answering)",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_folder_with_a_defect_is_refused(tmp_path: Path, defect: str) -> None:
    folder = tiny_classifier_dir(tmp_path / "model")
    make, words = DEFECTS[defect]
    make(folder)
    assert words in refused(folder)


def test_what_transformers_has_and_optimum_cannot_export_says_what_it_can(tmp_path: Path) -> None:
    import transformers

    config = transformers.MambaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4
    )
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "model")
    message = refused(tmp_path / "model")
    assert "'mamba'" in message
    assert "llama" in message


def test_a_classifier_has_no_cache(tmp_path: Path) -> None:
    assert "without a cache" in refused(tiny_classifier_dir(tmp_path / "model"), cache=True)


def test_an_opset_that_is_not_known(tmp_path: Path) -> None:
    assert "opset 9" in refused(tiny_classifier_dir(tmp_path / "model"), opset=9)


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    with pytest.raises(SourceError, match="there already"):
        export_onnx(tiny_classifier_dir(tmp_path / "model"), tmp_path / "onnx", run=perform)


def add_record(folder: Path) -> None:
    """A record as the trainer writes it, as far as it is about files."""
    names = [path.name for path in folder.iterdir()]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    files: dict[str, JsonValue] = {
        name: {"bytes": 1, "sha256": digest} for name, digest in digests.items()
    }
    record: dict[str, JsonValue] = {
        "files": files,
        "format": "casemate.training/1",
        "name": "tiny",
    }
    (folder / "training.json").write_bytes(canonical(record))


def test_a_checkpoint_whose_files_are_as_its_record_says(tmp_path: Path) -> None:
    folder = tiny_classifier_dir(tmp_path / "model")
    add_record(folder)
    export = export_onnx(folder, tmp_path / "onnx", run=perform)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert export.weights == {"model.safetensors": digest}
    # It speaks of the checkpoint, not of the graph.
    assert not (export.folder / "training.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_checkpoint_with_a_file_that_its_record_does_not_know(tmp_path: Path, name: str) -> None:
    folder = tiny_classifier_dir(tmp_path / "model")
    add_record(folder)
    path = folder / name
    if name.endswith(".json"):
        path.write_text(path.read_text() + "\n")
    else:
        change_weights(folder, lambda tensors: tensors["classifier.weight"].fill(1))
    assert "not what training wrote" in refused(folder)


def test_a_checkpoint_that_lacks_a_file_of_its_record(tmp_path: Path) -> None:
    folder = tiny_classifier_dir(tmp_path / "model")
    add_record(folder)
    (folder / "tokenizer.json").unlink()
    assert "not there" in refused(folder)
