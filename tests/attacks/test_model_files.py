"""Attacks through model files, as an attacker would carry them out.

The catalogue of malformed GGUF and ONNX files is in tests/preparse/bad_{gguf,onnx}.py,
one named generator a defect. Here they and their relatives go through the doors that
a person uses: `bundle create` and the opening of a bundle.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.bundling.create import CreateRequest, create_bundle
from security.bundle.opening import open_unsigned
from security.errors import CasemateError, UnsafeModelError
from tests.preparse import bad_gguf, bad_onnx
from tests.preparse.bad_onnx import external
from tests.preparse.bad_onnx import valid as valid_onnx
from tests.preparse.forge_gguf import STRING, U32, valid
from tests.support.tiny_models import tiny_encoder_dir, tiny_gguf, tiny_onnx

CATALOGUE = {
    "gguf": [
        "cve_2024_21802",
        "cve_2024_21825",
        "cve_2024_21836",
        "cve_2024_23496",
        "cve_2024_23605",
        "cve_2024_32878",
        "cve_2025_49847",
        "cve_2025_52566",
        "cve_2025_53630",
        "cve_2026_27940",
        "cve_2026_33298",
        "alignment_",
        "type_confused_",
        "byte_token_minus_one",
        "forty_three_byte",
    ],
    "onnx": [
        "cve_2022_25882",
        "cve_2024_27318",
        "cve_2025_51480",
        "cve_2026_27489",
        "cve_2026_34445",
        "cve_2026_34446",
        "cve_2026_34447",
        "cve_2026_28500",
        "custom_operator",
    ],
}
FILES = {
    f"{kind}-{name}": (f"model.{kind}", build)
    for kind, cases in (("gguf", bad_gguf.CASES), ("onnx", bad_onnx.CASES))
    for name, (build, _) in cases.items()
}


def create(source: Path, output: Path) -> None:
    request = CreateRequest(source, output, name="x", version="1.0.0", probes=False)
    create_bundle(request, lambda _: None)


@pytest.mark.parametrize("kind", CATALOGUE)
def test_the_catalogue_is_complete(kind: str) -> None:
    """Every class of defect that parsers have had keeps its file."""
    names = (bad_gguf if kind == "gguf" else bad_onnx).CASES
    missing = [c for c in CATALOGUE[kind] if not any(n.startswith(c) for n in names)]
    assert missing == []


@pytest.mark.parametrize("name", FILES)
def test_bad_file_does_not_become_a_bundle(tmp_path: Path, name: str) -> None:
    file_name, build = FILES[name]
    (tmp_path / file_name).write_bytes(build())
    with pytest.raises(UnsafeModelError, match=file_name):
        create(tmp_path / file_name, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == [file_name]


@pytest.mark.parametrize(
    "name",
    [
        "gguf-cve_2024_23496_string_length_minus_one",
        "gguf-byte_token_minus_one",
        "onnx-cve_2022_25882_external_data_outside_the_folder",
        "onnx-cve_2026_34446_external_data_in_a_constant",
    ],
)
def test_bad_file_in_a_bundle_is_refused_at_opening(tmp_path: Path, name: str) -> None:
    """Somebody trusted may sign anything: the pre-parser runs at every opening."""
    file_name, build = FILES[name]
    make = tiny_gguf if file_name.endswith("gguf") else tiny_onnx
    create(make(tmp_path / file_name), tmp_path / "b")
    (tmp_path / "b/variants/default" / file_name).write_bytes(build())
    with pytest.raises(UnsafeModelError):
        open_unsigned(tmp_path / "b")


class Exploit:
    """Pickled, this writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "model.PICKLE"],
)
def test_cve_2025_32434_pickled_weights_are_never_opened(tmp_path: Path, name: str) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Exploit(tmp_path / "pwned")))
    for source in (folder, folder / name):
        with pytest.raises(CasemateError, match="pickled weights can run code"):
            create(source, tmp_path / "b")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_pickle_under_another_name_is_not_unpickled(tmp_path: Path, name: str) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    (folder / name).write_bytes(pickle.dumps(Exploit(tmp_path / "pwned")))
    with pytest.raises(CasemateError, match=name):
        create(folder, tmp_path / "b")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx"])
@pytest.mark.parametrize("kind", ["zip", "tar", "pickle"])
def test_cve_2024_5187_archive_under_a_models_name(tmp_path: Path, name: str, kind: str) -> None:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("../../escaped", "x")
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("../../escaped"))
    else:
        buffer.write(pickle.dumps(Exploit(tmp_path / "escaped")))
    (tmp_path / name).write_bytes(buffer.getvalue())
    with pytest.raises(UnsafeModelError):
        create(tmp_path / name, tmp_path / "b")
    assert not any(path.name == "escaped" for path in tmp_path.parent.rglob("escaped"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch pwned') }}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    ],
)
def test_cve_2024_34359_template_inside_a_gguf_is_ignored(tmp_path: Path, template: str) -> None:
    """CVE-2024-34359 and CVE-2026-5760: code in a template that came with a model."""
    forge = valid()
    forge.set("tokenizer.chat_template", STRING, template)
    (tmp_path / "t.gguf").write_bytes(forge.encode())
    create(tmp_path / "t.gguf", tmp_path / "b")
    with open_unsigned(tmp_path / "b") as bundle:
        assert bundle.manifest.chat_template is None
    assert not (tmp_path / "pwned").exists()


def test_external_data_that_exists_is_still_refused(tmp_path: Path) -> None:
    """The file lies right there, of the right size: the runtime would read it."""
    model = valid_onnx()
    external(model.graph.initializer[0], "weights.bin", offset="0", length="48")
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeModelError, match=r"m\.onnx.*another file") as caught:
        create(tmp_path / "m.onnx", tmp_path / "b")
    assert caught.value.reason == "external-data"


@pytest.mark.parametrize(
    "place", ["../outside", "/etc", "..", "1_Pooling/../../outside", "", "1_Pooling\0x"]
)
def test_module_path_does_not_lead_out_of_the_folder(tmp_path: Path, place: str) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = place
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CasemateError):
        create(folder, tmp_path / "b")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json"])
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, name: str) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CasemateError, match=name):
        create(folder, tmp_path / "b")


def test_a_sparse_file_of_a_tebibyte_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("huge.gguf", "huge.onnx"):
        path = tmp_path / name
        path.touch()
        os.truncate(path, 1 << 40)
        with pytest.raises(UnsafeModelError) as caught:
            create(path, tmp_path / "b")
        assert caught.value.reason == "file-too-large"


def test_an_absurd_vocabulary_size_allocates_nothing(tmp_path: Path) -> None:
    forge = valid()
    forge.set("llama.vocab_size", U32, 2**32 - 1)
    (tmp_path / "t.gguf").write_bytes(forge.encode())
    with pytest.raises(UnsafeModelError) as caught:
        create(tmp_path / "t.gguf", tmp_path / "b")
    assert caught.value.reason == "vocabulary-size"
