"""Which files make a source, and that none of them leads out of its folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from compiler.errors import SourceError
from compiler.files import ANYWHERE, open_regular, read_text
from compiler.source.listing import BESIDE, model_files
from compiler.source.read import read_source, require_unchanged
from tests.support.tiny_models import tiny_encoder_dir, tiny_gguf, tiny_onnx

SECRET = "the key of the house"


def full(path: Path) -> Path:
    """An encoder with every file that may lie beside one."""
    folder = tiny_encoder_dir(path)
    for name in BESIDE:
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    return folder


def in_the_cache(home: Path) -> Path:
    """The same as Hugging Face's cache lays it out: links to blobs named by digest."""
    folder = full(home / "plain")
    cache = home / "models--someone--tiny"
    revision = cache / "snapshots" / ("0" * 40)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        blob = cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = revision / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return revision


def test_every_file_that_decides_is_listed(tmp_path: Path) -> None:
    source = read_source(full(tmp_path / "m"))
    assert set(source.files) == {*BESIDE, "model.safetensors", "1_Pooling/config.json"}
    assert set(source.digests) == set(source.files)


def test_a_text_beside_a_model_is_not_listed(tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    for name in ("train.txt", "eval_results.json", "notes.jinja", "other.safetensors"):
        (folder / name).write_text(SECRET)
    assert set(model_files(folder)) == {*BESIDE, "model.safetensors", "1_Pooling/config.json"}


def test_a_graph_lists_what_lies_beside_it(tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    path = tiny_onnx(folder / "other.onnx")
    assert set(read_source(path).files) == {*BESIDE, "other.onnx", "1_Pooling/config.json"}
    (folder / "model.safetensors").unlink()
    path.rename(folder / "model.onnx")
    assert set(read_source(folder).files) == {*BESIDE, "model.onnx", "1_Pooling/config.json"}


def test_a_decoder_lists_the_file_that_its_template_is_taken_from(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "t.gguf")
    assert read_source(path).files == ("t.gguf",)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert read_source(path).files == ("t.gguf", "tokenizer_config.json")


LISTED = (*BESIDE, "model.safetensors", "1_Pooling/config.json", "tokenizer.model")


@pytest.mark.parametrize("name", [*LISTED, "training.json", "privacy.json"])
def test_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    inside, outside = folder / name, tmp_path / "secret"
    if inside.exists():
        inside.rename(outside)
    else:
        outside.write_text(SECRET)
    inside.symlink_to(outside)
    with pytest.raises(SourceError, match="leads out of its folder") as refusal:
        read_source(folder)
    assert name in str(refusal.value)


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").symlink_to("nothing")
    with pytest.raises(SourceError, match=r"chat_template\.jinja: there is no such file"):
        read_source(folder)


def test_a_folder_of_a_module_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    (folder / "1_Pooling").rename(tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="leads out of its folder"):
        read_source(folder)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    (folder / "store").mkdir()
    (folder / "model.safetensors").rename(folder / "store" / "weights")
    (folder / "model.safetensors").symlink_to("store/weights")
    assert "model.safetensors" in read_source(folder).digests


def test_the_cache_of_hugging_face_is_read(tmp_path: Path) -> None:
    source = read_source(in_the_cache(tmp_path))
    assert source.digests == read_source(tmp_path / "plain").digests


def test_a_folder_in_the_cache_leads_to_no_other_blobs(tmp_path: Path) -> None:
    revision = in_the_cache(tmp_path)
    other = tmp_path / "models--someone--private" / "blobs" / "1"
    other.parent.mkdir(parents=True)
    other.write_text(SECRET)
    (revision / "chat_template.jinja").unlink()
    (revision / "chat_template.jinja").symlink_to(other)
    with pytest.raises(SourceError, match="leads out of its folder"):
        read_source(revision)


def test_blobs_that_are_a_link_themselves_are_refused(tmp_path: Path) -> None:
    revision = in_the_cache(tmp_path)
    blobs = revision.parent.parent / "blobs"
    blobs.rename(tmp_path / "home")
    blobs.symlink_to(tmp_path / "home")
    with pytest.raises(SourceError, match="leads out of its folder"):
        read_source(revision)


def test_a_snapshot_outside_a_cache_has_no_blobs(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "secret").write_text(SECRET)
    folder = full(tmp_path / "snapshots" / "m")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").symlink_to("../../blobs/secret")
    with pytest.raises(SourceError, match="leads out of its folder"):
        read_source(folder)


def test_a_file_that_the_user_named_may_be_a_link(tmp_path: Path) -> None:
    real = tiny_gguf(tmp_path / "store.gguf")
    link = tmp_path / "shelf" / "model.gguf"
    link.parent.mkdir()
    link.symlink_to(real)
    assert read_source(link).digests == {
        "model.gguf": hashlib.sha256(real.read_bytes()).hexdigest()
    }
    texts = tmp_path / "shelf" / "texts"
    texts.symlink_to(tmp_path / "real")
    (tmp_path / "real").write_text("a text")
    assert read_text(texts, root=ANYWHERE) == "a text"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", "circle"):
        with pytest.raises(SourceError), open_regular(tmp_path / name):
            pytest.fail("it was opened")


def test_half_a_surrogate_pair_is_no_json(tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": "\ud83d\ude42"}))
    read_source(folder)
    (folder / "config.json").write_text(json.dumps({**config, "note": "\ud83d"}))
    with pytest.raises(SourceError, match=r"config\.json: is not valid JSON"):
        read_source(folder)


@pytest.mark.parametrize("change", ["other content", "gone", "new", "same length and time"])
def test_a_source_that_changed_is_told(change: str, tmp_path: Path) -> None:
    folder = full(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    source = read_source(folder)
    assert source.digests
    require_unchanged(source)
    path = folder / "sentence_bert_config.json"
    match change:
        case "other content":
            path.write_text('{"max_seq_length": 7}')
        case "gone":
            (folder / "tokenizer.json").unlink()
        case "new":
            (folder / "chat_template.jinja").write_text("{{ messages }}")
        case "same length and time":
            status = path.stat()
            path.write_text(path.read_text().replace("96", "95"))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SourceError, match="changed while it was compiled"):
        require_unchanged(source)
