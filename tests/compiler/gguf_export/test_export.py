"""What comes of an export besides numbers: bytes that never change, and nothing halfway."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from compiler.errors import SourceError
from compiler.gguf_export.configuration import Configuration
from compiler.gguf_export.export import export_gguf
from compiler.gguf_export.parity import check_tokens
from compiler.gguf_export.vocabulary import read_vocabulary
from compiler.tokenizer.file import open_tokenizer
from security.errors import BundleError, UnsafeModelError
from security.strictjson import JsonValue, canonical
from tests.compiler.gguf_export.models import (
    byte_level,
    sentencepiece,
    write_model,
    write_tokenizer,
)

WEIGHTS = "model.safetensors"
RECORD = "training.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


def export(source: Path, **options: Any) -> Path:
    out = source.parent / "m.gguf"
    export_gguf(source, out, report=print, **options)
    return out


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def change_config(source: Path, **changes: Any) -> None:
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(source: Path, change: Callable[[dict[str, Any]], None]) -> None:
    weights = load_file(source / WEIGHTS)
    change(weights)
    save_file(weights, source / WEIGHTS)


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_the_same_source_gives_the_same_bytes(dtype: str, tmp_path: Path) -> None:
    files = []
    for name in ("one", "another"):
        write_model(tmp_path / name)
        files.append(tmp_path / f"{name}.gguf")
        export_gguf(tmp_path / name, files[-1], dtype=dtype, report=print)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_told_of_it(source: Path) -> None:
    labels: list[str] = []
    made = export_gguf(source, source.parent / "m.gguf", report=labels.append)
    data = made.path.read_bytes()
    assert (made.sha256, made.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert made.weights == {WEIGHTS: hashlib.sha256((source / WEIGHTS).read_bytes()).hexdigest()}
    assert (made.architecture, made.tokenizer, made.pre_tokenizer) == ("llama", "gpt2", "gpt-2")
    assert made.context_tokens == 256
    assert made.tokens_checked > 1000
    assert made.notes == ()
    assert {"gguf", "numpy", "tokenizers", "llama-cpp-python"} <= set(made.tools)
    assert "writing the weights: 100%" in labels
    assert left(source.parent) == ["m.gguf", "model"]


def test_nothing_is_overwritten(source: Path) -> None:
    out = source.parent / "m.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(SourceError, match="something already"):
        export_gguf(source, out, report=print)
    assert out.read_bytes() == b"mine"


def pickled(source: Path) -> None:
    (source / WEIGHTS).rename(source / "pytorch_model.bin")


def without_tokenizer(source: Path) -> None:
    (source / "tokenizer.json").unlink()


def without_config(source: Path) -> None:
    (source / "config.json").unlink()


def unknown_architecture(source: Path) -> None:
    change_config(source, model_type="falcon")


def recurrent(source: Path) -> None:
    change_config(source, model_type="casemate-recurrent")


def with_added_layers(source: Path) -> None:
    change_config(source, model_type="casemate-transformer")


def classifier(source: Path) -> None:
    change_config(source, architectures=["LlamaForSequenceClassification"])


def other_activation(source: Path) -> None:
    change_config(source, hidden_act="gelu")


def dynamic_positions(source: Path) -> None:
    change_config(source, rope_scaling={"rope_type": "dynamic", "factor": 2.0})


def not_finite(source: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan

    change_weights(source, change)


def beyond_half_precision(source: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6

    change_weights(source, change)


def smaller_embedding(source: Path) -> None:
    change_config(source, vocab_size=380)
    write_tokenizer(source, byte_level(size=380))


def larger_tokenizer(source: Path) -> None:
    write_tokenizer(source, byte_level(size=440))


def without_a_tensor(source: Path) -> None:
    change_weights(source, lambda weights: weights.pop("model.norm.weight"))


def with_another_tensor(source: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["model.layers.0.adapter.weight"] = np.zeros((2, 2), np.float32)

    change_weights(source, change)


def cut_short(source: Path) -> None:
    data = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(data[:-100])


def cut_in_the_header(source: Path) -> None:
    (source / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes()[:100])


def with_a_tail(source: Path) -> None:
    with (source / WEIGHTS).open("ab") as file:
        file.write(b"more")


def overlapping(source: Path) -> None:
    data = (source / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name.endswith("layernorm.weight")]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    text = json.dumps(header).encode()
    (source / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def quantized(source: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int8)

    change_weights(source, change)


def index_leads_out(source: Path) -> None:
    (source / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "../secret.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))


def padding_beyond(source: Path) -> None:
    change_config(source, pad_token_id=1 << 40)


def ends_beyond(source: Path) -> None:
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 1099511627776]}')


BAD: dict[Callable[[Path], None], str] = {
    padding_beyond: r"config\.json: pad_token_id is beyond the model's 400 tokens",
    ends_beyond: r"generation_config\.json: eos_token_id is beyond",
    pickled: "pickled weights",
    without_tokenizer: r"has no tokenizer\.json",
    without_config: r"has no config\.json",
    unknown_architecture: "'falcon' is not exported.*converter",
    recurrent: "recurrent network.*ONNX",
    with_added_layers: "no GGUF architecture",
    classifier: "LlamaForSequenceClassification.*ONNX",
    other_activation: "hidden_act is 'gelu'",
    dynamic_positions: "'dynamic' are not exported",
    not_finite: "up_proj.*not finite",
    beyond_half_precision: "beyond the range of F16.*bf16",
    smaller_embedding: r"has the shape \(400, 32\)",
    larger_tokenizer: "beyond the model's vocabulary of 400",
    without_a_tensor: "lack the tensor 'model.norm.weight'",
    with_another_tensor: "adapter.weight' has no place",
    cut_short: "truncated",
    cut_in_the_header: "truncated",
    with_a_tail: "4 bytes follow",
    overlapping: "overlaps",
    quantized: "I8",
    index_leads_out: "in the same folder alone",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_refused_by_name(
    spoil: Callable[[Path], None], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CASEMATE_LLAMA_CPP", raising=False)
    spoil(source)
    with pytest.raises(SourceError, match=BAD[spoil]):
        export(source)
    assert left(source.parent) == ["model"]


def test_a_source_that_is_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match="pickled"):
        export_gguf(path, tmp_path / "m.gguf", report=print)


def test_unknown_type(source: Path) -> None:
    with pytest.raises(SourceError, match="'q4_0' is none of"):
        export(source, dtype="q4_0")


def test_what_the_pre_parser_refuses(tmp_path: Path) -> None:
    """A vocabulary with a NUL in a token, which only SentencePiece's kind can have."""
    content = json.loads(sentencepiece(prefix=False).to_str())
    content["model"]["vocab"]["\0"] = len(content["model"]["vocab"])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    write_model(tmp_path / "model", tokenizer=tokenizer, eos_token_id=2)
    with pytest.raises(UnsafeModelError, match=r"GGUF made of .*model: .*a token holds a NUL"):
        export(tmp_path / "model")
    assert left(tmp_path) == ["model"]


def test_tokens_that_differ_are_noticed(source: Path, tmp_path: Path) -> None:
    out = export(source)
    vocabulary, _ = read_vocabulary(source, Configuration(source), 400)
    byte_level("smollm").save(str(tmp_path / "other.json"))
    other = open_tokenizer(tmp_path / "other.json")
    with pytest.raises(SourceError, match=r"cuts text \d+ of the built-in comparison"):
        check_tokens(out, vocabulary, other, source)


def make_checkpoint(source: Path) -> None:
    for path in source.iterdir():
        path.chmod(0o644)
    source.chmod(0o755)
    files: dict[str, JsonValue] = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in source.iterdir()
    }
    record: dict[str, JsonValue] = {"format": "casemate.training/1", "name": "tiny", "files": files}
    (source / RECORD).write_bytes(canonical(record))
    (source / RECORD).chmod(0o644)


def test_a_checkpoint_is_what_training_wrote(source: Path) -> None:
    make_checkpoint(source)
    export(source)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_changed_checkpoint(name: str, source: Path) -> None:
    make_checkpoint(source)
    with (source / name).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(BundleError, match=r"record-mismatch|not what training wrote"):
        export(source)
    assert left(source.parent) == ["model"]


def test_a_checkpoint_with_code_in_it(source: Path) -> None:
    make_checkpoint(source)
    (source / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(BundleError, match="no place in a checkpoint"):
        export(source)


# The high-water mark of this program alone; getrusage would begin with its parent's.
_MEASURED = """
import re, sys
from pathlib import Path
from compiler.gguf_export.export import export_gguf
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
export_gguf(Path(sys.argv[1]), Path(sys.argv[2]), dtype=sys.argv[3], report=lambda label: None)
print(peak() - before)
"""


def test_memory(tmp_path: Path) -> None:
    """A bfloat16 source of 31 MB becomes float32 twice its size, with little in memory."""
    import torch

    model = write_model(
        tmp_path / "model", hidden_size=1024, intermediate_size=4096, num_hidden_layers=1
    )
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    size = (tmp_path / "model" / WEIGHTS).stat().st_size
    words = [sys.executable, "-c", _MEASURED, str(tmp_path / "model"), str(tmp_path / "m.gguf")]
    words.append("f32")
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 0 < int(result.stdout) < 2.5 * size
