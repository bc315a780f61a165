"""What a path is taken for, and what is refused before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save_model

from compiler.errors import SourceError
from compiler.source.read import read_source
from compiler.source.source import KINDS
from security.errors import UnsafeModelError
from tests.support.bundles import tiny_bundle
from tests.support.tiny_models import (
    tiny_classifier_dir,
    tiny_encoder_dir,
    tiny_gguf,
    tiny_onnx,
)


def changed(folder: Path, **values: object) -> None:
    """Change keys of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_every_kind(tmp_path: Path) -> None:
    checkpoint = tiny_classifier_dir(tmp_path / "checkpoint")
    (checkpoint / "training.json").write_text("{}")
    given_ = {
        "checkpoint": (checkpoint, "classify"),
        "huggingface": (tiny_encoder_dir(tmp_path / "folder"), "embed"),
        "onnx": (tiny_onnx(tmp_path / "t.onnx"), "tensor"),
        "gguf": (tiny_gguf(tmp_path / "t.gguf"), "generate"),
        "bundle": (tiny_bundle(tmp_path, "tensor").path, "tensor"),
    }
    assert set(given_) == set(KINDS)
    for kind, (path, task) in given_.items():
        source = read_source(path)
        assert (source.kind, source.task) == (kind, task)
        assert set(source.digests) == set(source.files)
        assert all((source.folder / name).is_file() for name in source.files)
        assert source.size_bytes > 0


def test_a_graph_with_a_tokenizer_beside_it_is_an_encoder(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    path = tiny_onnx(folder / "other.onnx")
    assert read_source(path).task == "embed"


def test_tasks_of_folders(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    changed(folder, architectures=["LlamaForCausalLM"], model_type="llama")
    assert read_source(folder).task == "generate"
    changed(folder, architectures=["RobertaForSequenceClassification"], model_type="roberta")
    assert read_source(folder).task == "classify"
    (folder / "modules.json").unlink()
    changed(folder, architectures=["BertForTokenClassification"], model_type="bert")
    assert read_source(folder).task is None
    changed(folder, architectures=["T5ForConditionalGeneration"], model_type="t5")
    assert read_source(folder).task is None


def pickled_only(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def pickled_file(folder: Path) -> Path:
    path = folder / "model.pt"
    path.write_bytes(b"\x80\x02.")
    return path


def no_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def no_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


def no_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    return folder


def no_architecture(folder: Path) -> Path:
    changed(folder, model_type=None)
    return folder


def cut_weights(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return folder


def longer_weights(folder: Path) -> Path:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    return folder


def no_safetensors(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    return folder


def only_weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def missing(folder: Path) -> Path:
    return folder / "nothing"


def text_file(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("x")
    return path


def index_to_elsewhere(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def index_to_nothing(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled_only, "only pytorch_model.bin: pickled weights can run code"),
        (pickled_file, "pickled weights can run code"),
        (no_weights, "has no model.safetensors"),
        (no_config, "has no config.json"),
        (no_tokenizer, "has no tokenizer.json"),
        (no_architecture, "its architecture is unknown"),
        (cut_weights, "the file is truncated"),
        (longer_weights, "1 bytes follow the last tensor"),
        (no_safetensors, "is not a valid safetensors file"),
        (only_weights, "give the folder it lies in"),
        (missing, "there is no such file or folder"),
        (text_file, "is no model that is known here"),
        (index_to_elsewhere, "in the same folder alone"),
        (index_to_nothing, r"has no model-1\.safetensors, which"),
    ],
)
def test_refusals_by_name(tmp_path: Path, spoil: Callable[[Path], Path], message: str) -> None:
    path = spoil(tiny_encoder_dir(tmp_path / "model"))
    with pytest.raises(SourceError, match=message) as refused:
        read_source(path)
    assert str(tmp_path) in str(refused.value)


def graph_with(path: Path, *, external: bool = False, domain: str = "") -> Path:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if external:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="weights.bin")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Add", ["x", "w"], ["y"], domain=domain)
    graph = helper.make_graph([node], "g", [value], [result], [weight])
    opsets = [helper.make_opsetid("", 17)]
    opsets += [helper.make_opsetid(domain, 1)] if domain else []
    save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def test_onnx_with_external_data_or_unknown_operators_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError, match="external"):
        read_source(graph_with(tmp_path / "a.onnx", external=True))
    with pytest.raises(UnsafeModelError, match="domain"):
        read_source(graph_with(tmp_path / "b.onnx", domain="com.example"))


def test_cut_model_files_are_refused(tmp_path: Path) -> None:
    for path in (tiny_gguf(tmp_path / "t.gguf"), tiny_onnx(tmp_path / "t.onnx")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UnsafeModelError, match=str(path)):
            read_source(path)
