"""llama.cpp's converter is kept apart, and what it writes is judged like a stranger's file.

The converters here are programs of a few lines that are run as the real one is; the real
one is compared with where CASEMATE_LLAMA_CPP names its source tree.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from casemate.cli.main import cli
from compiler.errors import SourceError
from compiler.gguf_export.converter import Converter, convert, find_converter
from compiler.gguf_export.export import export_gguf
from security.errors import UnsafeModelError
from tests.compiler.gguf_export.models import sentencepiece, write_model, write_tokenizer

ARGUMENTS = """
import os, sys
from pathlib import Path
model, out = Path(sys.argv[1]), Path(sys.argv[3])
assert sys.argv[2] == "--outfile" and sys.argv[4] == "--outtype"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of a type that is not exported here; its weights would be Llama's."""
    write_model(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "arcee"}))
    return tmp_path / "model"


def converter(folder: Path, body: str) -> Path:
    path = folder / "convert_hf_to_gguf.py"
    path.write_text(ARGUMENTS + body)
    return path


def prepared(folder: Path) -> Path:
    """A GGUF such as a converter would write of `source`."""
    write_model(folder / "plain")
    export_gguf(folder / "plain", folder / "plain.gguf", report=print)
    return folder / "plain.gguf"


def test_its_file_is_taken(source: Path, tmp_path: Path) -> None:
    made_before = prepared(tmp_path)
    script = converter(tmp_path, f"out.write_bytes(Path({str(made_before)!r}).read_bytes())")
    made = export_gguf(source, tmp_path / "m.gguf", report=print, converter=script)
    assert made.path.read_bytes() == made_before.read_bytes()
    assert made.tokens_checked > 1000
    assert len(made.tools["converter.sha256"]) == 64


def test_it_is_found_by_the_environment(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CASEMATE_LLAMA_CPP", raising=False)
    with pytest.raises(SourceError, match=r"'arcee' is not exported.*CASEMATE_LLAMA_CPP"):
        export_gguf(source, tmp_path / "m.gguf", report=print)
    script = converter(tmp_path, "sys.exit('said no')")
    monkeypatch.setenv("CASEMATE_LLAMA_CPP", str(tmp_path))
    assert find_converter(None) == find_converter(script)
    with pytest.raises(SourceError, match="said no"):
        export_gguf(source, tmp_path / "m.gguf", report=print)


def test_what_is_no_converter(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"neither convert_hf_to_gguf\.py nor"):
        find_converter(tmp_path)


@pytest.mark.parametrize("body", ["out.write_bytes(b'GGUF' + bytes(100))", "out.write_text('no')"])
def test_a_file_that_is_not_acceptable(body: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError):
        export_gguf(source, tmp_path / "m.gguf", report=print, converter=converter(tmp_path, body))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["convert_hf_to_gguf.py", "model"]


def test_tokens_that_differ(source: Path, tmp_path: Path) -> None:
    made_before = prepared(tmp_path)
    write_tokenizer(source, sentencepiece(prefix=True))
    script = converter(tmp_path, f"out.write_bytes(Path({str(made_before)!r}).read_bytes())")
    with pytest.raises(SourceError, match=r"built-in comparison|beyond the model's vocabulary"):
        export_gguf(source, tmp_path / "m.gguf", report=print, converter=script)


def found(body: str, source: Path, tmp_path: Path) -> str:
    """Run a converter that writes a text instead of a GGUF."""
    tool = Converter(converter(tmp_path, body), {})
    convert(source, tmp_path / "text", "f16", tool)
    return (tmp_path / "text").read_text()


def test_it_sees_no_code_and_no_pickle(source: Path, tmp_path: Path) -> None:
    (source / "modeling_arcee.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    names = found(
        "out.write_text(' '.join(sorted(p.name for p in model.iterdir())))", source, tmp_path
    )
    assert names.split() == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_it_reaches_no_network(source: Path, tmp_path: Path) -> None:
    body = """
import socket
server = None
try:
    with socket.socket() as made:
        made.settimeout(5)
        made.connect(("127.0.0.1", PORT))
    out.write_text("reached")
except OSError as error:
    out.write_text(f"refused {type(error).__name__}")
"""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert found(body.replace("PORT", str(port)), source, tmp_path).startswith("refused")


def test_it_knows_little_of_the_environment(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of ours")
    names = found("out.write_text(' '.join(os.environ))", source, tmp_path).split()
    assert "A_SECRET" not in names
    assert {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} <= set(names)


def test_its_memory_and_time_are_bounded(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="MemoryError"):
        found("bytearray(64 << 30)", source, tmp_path)
    tool = Converter(converter(tmp_path, "import threading; threading.Event().wait()"), {})
    with pytest.raises(SourceError, match="longer than 1 seconds"):
        convert(source, tmp_path / "late", "f16", tool, timeout_seconds=1)


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_our_tensors_are_those_of_the_real_one(dtype: str, tmp_path: Path) -> None:
    if "CASEMATE_LLAMA_CPP" not in os.environ:
        pytest.skip("CASEMATE_LLAMA_CPP names no source tree of llama.cpp")
    if importlib.util.find_spec("sentencepiece") is None:
        pytest.skip("llama.cpp's converter needs sentencepiece, which is not installed")
    from gguf import GGUFReader

    tokenizer = sentencepiece(prefix=True)
    write_model(tmp_path / "model", tokenizer=tokenizer, eos_token_id=2, bos_token_id=1)
    # The real one takes this kind of tokenizer only under this name.
    write_tokenizer(
        tmp_path / "model",
        tokenizer,
        tokenizer_class="LlamaTokenizerFast",
        bos_token="<s>",
        unk_token="<unk>",
        add_bos_token=True,
    )
    tool = find_converter(None)
    assert tool is not None
    convert(tmp_path / "model", tmp_path / "theirs.gguf", dtype, tool)
    export_gguf(tmp_path / "model", tmp_path / "ours.gguf", dtype=dtype, report=print)
    ours, theirs = (
        {tensor.name: tensor for tensor in GGUFReader(tmp_path / f"{name}.gguf").tensors}
        for name in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.tensor_type == theirs[name].tensor_type, name
        np.testing.assert_array_equal(tensor.data, theirs[name].data, err_msg=name)


def test_the_command_hands_it_on_and_the_bundle_names_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CASEMATE_LLAMA_CPP", raising=False)
    made_before = prepared(tmp_path)
    script = converter(tmp_path, f"out.write_bytes(Path({str(made_before)!r}).read_bytes())")
    words = ["compile", str(source), "--no-tune", "--no-probes", "--json", "-o"]
    refused = CliRunner().invoke(cli, [*words, str(tmp_path / "none")])
    assert refused.exit_code == 1
    result = CliRunner().invoke(cli, [*words, str(tmp_path / "out"), "--converter", str(script)])
    assert result.exit_code == 0, (result.output, result.exception)
    statement = json.loads((tmp_path / "out/attestations/conversion.json").read_text())
    export = statement["predicate"]["export"]
    assert len(export["tools"]["converter.sha256"]) == 64
    assert export["tokens_checked"] > 1000
    assert export["notes"] == json.loads(result.stdout)["notes"]
    words = ["quantize", str(source), "--format", "q8_0", "-o", str(tmp_path / "m.gguf")]
    result = CliRunner().invoke(cli, [*words, "--converter", str(script), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
