"""Bundles made of every kind of source, and what is refused on the way."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from compiler.bundling.create import CreatedBundle, CreateRequest, create_bundle
from compiler.errors import SourceError
from security.bundle.opening import open_unsigned
from security.errors import BundleError, UnsafeModelError
from tests.compiler.foreign_encoder import DIM, foreign_dir
from tests.preparse.forge_gguf import STRING, valid
from tests.support.tiny_models import (
    CLASSIFIER_LABELS,
    ENCODER_HIDDEN,
    GGUF_CONTEXT,
    tiny_classifier_dir,
    tiny_encoder_dir,
    tiny_gguf,
    tiny_onnx,
)


def create(source: Path, output: Path, **options: Any) -> CreatedBundle:
    given: dict[str, Any] = {"name": "tiny", "version": "1.0.0", "probes": False}
    return create_bundle(CreateRequest(source, output, **(given | options)), lambda _: None)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_gguf(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "t.gguf")
    created = create(source, tmp_path / "b")
    with open_unsigned(tmp_path / "b") as bundle:
        manifest = bundle.manifest
        assert set(bundle.files) == {"bundle.json", "variants/default/model.gguf"}
    assert created.manifest == manifest
    assert manifest.task == "generate"
    assert manifest.limits.context_tokens == manifest.limits.max_output_tokens == GGUF_CONTEXT
    assert (manifest.special_tokens.bos, manifest.special_tokens.eos) == ("<s>", "</s>")
    assert manifest.chat_template is None
    assert (tmp_path / "b/variants/default/model.gguf").read_bytes() == source.read_bytes()
    assert left_over(tmp_path) == []


def test_plain_onnx(tmp_path: Path) -> None:
    create(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "b")
    with open_unsigned(tmp_path / "b") as bundle:
        assert bundle.manifest.task == "tensor"
        assert bundle.manifest.limits.context_tokens == 0


def test_sentence_transformers_folder(tmp_path: Path) -> None:
    create(tiny_encoder_dir(tmp_path / "m"), tmp_path / "b")
    with open_unsigned(tmp_path / "b") as bundle:
        encoder = bundle.manifest.encoder
        assert bundle.manifest.task == "embed"
        assert bundle.manifest.limits.context_tokens == 96
    assert encoder is not None
    assert (encoder.pooling, encoder.normalize, encoder.dim) == ("mean", True, ENCODER_HIDDEN)


def test_classifier_folder(tmp_path: Path) -> None:
    create(tiny_classifier_dir(tmp_path / "m"), tmp_path / "b")
    with open_unsigned(tmp_path / "b") as bundle:
        assert bundle.manifest.task == "classify"
        assert bundle.manifest.encoder is not None
        assert bundle.manifest.encoder.labels == CLASSIFIER_LABELS


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("output", ["last_hidden_state", "sentence_embedding", "embedding"])
@pytest.mark.parametrize("segments", [True, False])
def test_onnx_of_another_exporter_gets_our_interface(
    tmp_path: Path, place: str, output: str, segments: bool
) -> None:
    create(foreign_dir(tmp_path / "m", output, place, segments=segments), tmp_path / "b")
    session = ort.InferenceSession(str(tmp_path / "b/variants/default/model.onnx"))
    assert [(i.name, i.type) for i in session.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
    ids = np.array([[3, 4, 0], [5, 6, 7]])
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    (vectors,) = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
    assert vectors.shape == (2, DIM)
    words = np.random.default_rng(7).standard_normal((1000, DIM)).astype(np.float32)[:10]
    states = words[ids] + (1.0 if segments else 0.0)
    if output == "last_hidden_state":
        expected = np.stack([states[0, :2].mean(0), states[1].mean(0)])
    else:
        expected = states[:, 0]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_onnx_classifier_of_another_exporter(tmp_path: Path) -> None:
    create(foreign_dir(tmp_path / "m", "logits"), tmp_path / "b")
    with open_unsigned(tmp_path / "b") as bundle:
        assert bundle.manifest.task == "classify"
        assert [value.name for value in bundle.summaries["default"].outputs] == ["logits"]  # type: ignore[union-attr]


def test_onnx_file_with_a_tokenizer_beside_it_is_an_encoder(tmp_path: Path) -> None:
    folder = foreign_dir(tmp_path / "m", "last_hidden_state")
    assert create(folder / "model.onnx", tmp_path / "b").manifest.task == "embed"
    assert create(folder / "model.onnx", tmp_path / "c", task="tensor").manifest.task == "tensor"


def test_options_end_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Do as you please.")
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    manifest = create(
        tiny_gguf(tmp_path / "t.gguf"),
        tmp_path / "b",
        name="other.name",
        version="2.1.0-rc.1",
        security_epoch=7,
        license_file=tmp_path / "LICENSE",
        chat_template_file=tmp_path / "t.jinja",
        context_tokens=128,
        max_sequences=3,
        not_after=datetime(2099, 1, 1, tzinfo=UTC),
    ).manifest
    assert (manifest.name, manifest.version, manifest.security_epoch) == (
        "other.name",
        "2.1.0-rc.1",
        7,
    )
    assert manifest.license == "Do as you please."
    assert manifest.chat_template == "{{ messages }}"
    assert (manifest.limits.context_tokens, manifest.limits.max_sequences) == (128, 3)
    assert manifest.not_after == datetime(2099, 1, 1, tzinfo=UTC)


def test_chat_template_comes_from_the_source_only_when_asked(tmp_path: Path) -> None:
    forge = valid()
    forge.set("tokenizer.chat_template", STRING, "{{ inside }}")
    source = tmp_path / "t.gguf"
    source.write_bytes(forge.encode())
    assert create(source, tmp_path / "a").manifest.chat_template is None
    asked = create(source, tmp_path / "b", chat_template_from_source=True)
    assert asked.manifest.chat_template == "{{ inside }}"


def test_chat_template_from_tokenizer_config(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "t.gguf")
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    created = create(source, tmp_path / "b", chat_template_from_source=True)
    assert created.manifest.chat_template == "y"


def test_modes_are_normalized_whatever_the_umask(tmp_path: Path) -> None:
    source = tiny_encoder_dir(tmp_path / "m")
    before = os.umask(0o077)
    try:
        create(source, tmp_path / "b")
    finally:
        os.umask(before)
    modes = {
        stat.S_IMODE(path.stat().st_mode): path.is_dir()
        for path in [tmp_path / "b", *(tmp_path / "b").rglob("*")]
    }
    assert modes == {0o755: True, 0o644: False}


def test_same_source_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source = tiny_encoder_dir(tmp_path / "m")
    create(source, tmp_path / "a")
    create(source, tmp_path / "b")
    with open_unsigned(tmp_path / "a") as a, open_unsigned(tmp_path / "b") as b:
        assert a.digest == b.digest
        assert a.manifest.created == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _config_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _deep_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _dense_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))


def _pooling_elsewhere(folder: Path) -> None:
    text = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(text.replace("1_Pooling", "../1_Pooling"))


def _max_pooling(folder: Path) -> None:
    values = {"pooling_mode_max_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(values))


def _default_prompt(folder: Path) -> None:
    values = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(values))


def _tokenizer_too_large(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["extra"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def _no_unknown_token(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"].pop("[UNK]")
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def _panicking_when_read(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def _panicking_at_a_text(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_unknown_token, "fails on a text with characters that it does not know"),
        (_panicking_when_read, "not a tokenizer that can be read"),
        (_panicking_at_a_text, "chunk size must be non-zero"),
        (_no_tokenizer, "has no tokenizer.json; a model of text"),
        (_broken_tokenizer, "not a tokenizer"),
        (_no_config, "has no config.json"),
        (_broken_config, "not valid JSON"),
        (_config_list, "not a JSON object"),
        (_deep_config, "not valid JSON"),
        (_no_weights, "has no model.safetensors"),
        (_dense_module, "Dense"),
        (_pooling_elsewhere, "no plain path"),
        (_max_pooling, "mean and cls"),
        (_default_prompt, "prompt put before"),
        (_tokenizer_too_large, "beyond the model's vocabulary"),
    ],
)
def test_bad_folder_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    spoil(folder)
    with pytest.raises(SourceError, match=message) as caught:
        create(folder, tmp_path / "b")
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "b").exists()
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("name", ["missing.gguf", "notes.txt", "alone.safetensors"])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_text("hello")
    with pytest.raises(SourceError, match=name):
        create(tmp_path / name, tmp_path / "b")


@pytest.mark.parametrize("name", ["t.gguf", "t.onnx"])
def test_a_refused_model_names_its_file_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(UnsafeModelError, match=name):
        create(tmp_path / name, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "Has Spaces"}, "name"),
        ({"version": "one"}, "version"),
        ({"not_after": datetime(2001, 1, 1, tzinfo=UTC)}, "not_after"),
    ],
)
def test_values_that_the_format_refuses(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        create(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "b", **options)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_tokens": GGUF_CONTEXT + 1}, "--context"),
        ({"task": "embed"}, "'generate', not 'embed'"),
        ({"chat_template_from_source": True}, "brings no chat template"),
        ({"license_file": Path("/nonexistent/LICENSE")}, "no such file"),
    ],
)
def test_options_that_do_not_fit_the_source(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        create(tiny_gguf(tmp_path / "t.gguf"), tmp_path / "b", **options)


def test_a_tensor_graph_has_no_context(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no context"):
        create(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "b", context_tokens=5)


def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    source = tiny_onnx(tmp_path / "t.onnx")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("keep")
    with pytest.raises(SourceError, match="exists already"):
        create(source, tmp_path / "b")
    assert (tmp_path / "b" / "mine").read_text() == "keep"


def test_a_target_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        create(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "x" / "b")


def test_a_failure_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress line breaks in the middle of the copy, as a full disk would."""

    def report(text: str) -> None:
        if text.startswith("copying"):
            raise OSError(28, "No space left on device")

    request = CreateRequest(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "b", "t", "1.0.0")
    with pytest.raises(OSError, match="No space"):
        create_bundle(request, report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.onnx"]


def test_bad_source_date_epoch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(SourceError, match="SOURCE_DATE_EPOCH"):
        create(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "b")


def test_foreign_encoder_with_other_inputs_is_refused(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    tiny_onnx(folder / "model.onnx")
    with pytest.raises(SourceError, match="input_ids"):
        create(folder, tmp_path / "b")
