"""llama.cpp's own converter, run for real, where CASEMATE_LLAMA_CPP names its source tree.

The architecture is one that is not exported here. Its tokenizer is GPT-2's, which lies in that
tree, or one that the converter has never seen.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from compiler.bundling.inspect import inspect_gguf
from compiler.errors import SourceError
from compiler.gguf_export.configuration import Configuration
from compiler.gguf_export.converter import convert, find_converter, read_converted
from compiler.gguf_export.export import export_gguf
from compiler.gguf_export.parity import check_tokens
from compiler.gguf_export.retokenize import replace_vocabulary
from compiler.gguf_export.specials import read_specials
from compiler.gguf_export.vocabulary import load_tokenizer, read_vocabulary
from tests.compiler.gguf_export.models import (
    END,
    Llama,
    byte_level,
    reference_logits,
    sentencepiece,
    write_model,
    write_tokenizer,
)
from tests.trainer.e2e.small import answer, typed


@pytest.fixture
def tree() -> Path:
    if "CASEMATE_LLAMA_CPP" not in os.environ:
        pytest.skip("CASEMATE_LLAMA_CPP names no source tree of llama.cpp")
    return Path(os.environ["CASEMATE_LLAMA_CPP"])


def gpt2(tree: Path) -> Tokenizer:
    """GPT-2's tokenizer, of the vocabulary that llama.cpp tests itself with."""
    import gguf

    reader = gguf.GGUFReader(tree / "models" / "ggml-vocab-gpt-2.gguf")
    tokens, merges = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges")
    )
    ids = {token: number for number, token in enumerate(tokens)}
    raw = Tokenizer(models.BPE(ids, [tuple(merge.split(" ")) for merge in merges]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([END])
    return raw


def phi3(folder: Path, tokenizer: Tokenizer) -> Any:
    """A tiny Phi-3 of random weights, which is not exported here."""
    import torch
    import transformers

    # The converter reads a byte-level tokenizer of a Phi-3 under this name only.
    write_tokenizer(folder, tokenizer, tokenizer_class="GPT2Tokenizer")
    torch.manual_seed(1)
    size = max(tokenizer.get_vocab().values()) + 1
    config = transformers.Phi3Config(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=None,
    )
    model = transformers.Phi3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def same_logits(model: Any, path: Path) -> float:
    size = model.config.vocab_size
    ids = np.random.default_rng(0).integers(1, size, 40).tolist()
    wanted = reference_logits(model, ids)
    with Llama(path) as llama:
        return float(np.abs(llama.logits(ids) - wanted).max())


def test_another_architecture_becomes_a_bundle_that_answers(tree: Path, tmp_path: Path) -> None:
    model = phi3(tmp_path / "model", gpt2(tree))
    # With probes: the appliance's worker runs it once.
    words = ("compile", tmp_path / "model", "--converter", tree, "--format", "f16", "--json", "-o")
    made = answer(typed(*words, tmp_path / "out"))
    assert made["task"] == "generate"
    assert made["probes_recorded"]
    assert same_logits(model, tmp_path / "out/variants/default/model.gguf") < 0.05
    statement = json.loads((tmp_path / "out/attestations/conversion.json").read_text())
    export = statement["predicate"]["export"]
    assert export["tokens_checked"] > 10_000
    assert export["pre_tokenizer"] == "gpt-2"
    tools = export["tools"]
    assert len(tools["converter.sha256"]) == 64
    assert all(part.isdigit() for part in tools["converter.gguf"].split("."))
    if (tree / ".git").exists():
        command = ["git", "-C", str(tree), "rev-parse", "HEAD"]
        named = subprocess.run(command, capture_output=True, text=True, check=True)
        assert tools["converter.git"] == named.stdout.strip()


def test_a_tokenizer_that_the_converter_never_saw(tree: Path, tmp_path: Path) -> None:
    model = phi3(tmp_path / "model", byte_level("qwen2"))
    made = export_gguf(
        tmp_path / "model", tmp_path / "m.gguf", dtype="f32", report=print, converter=tree
    )
    assert made.architecture == "phi3"
    assert made.pre_tokenizer == "qwen2"
    assert made.tokens_checked > 1000
    assert same_logits(model, made.path) < 1e-3


def test_scores_that_the_converter_makes_up_are_refused_and_written_anew(
    tree: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece", reason="llama.cpp's converter needs it for this kind")
    tokenizer = sentencepiece(prefix=True)
    folder, path = tmp_path / "model", tmp_path / "m.gguf"
    write_model(folder, tokenizer=tokenizer, eos_token_id=2, bos_token_id=1)
    more = {"bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": True}
    write_tokenizer(folder, tokenizer, tokenizer_class="LlamaTokenizerFast", **more)
    tool = find_converter(tree)
    assert tool is not None
    convert(folder, path, "f16", tool)
    config = Configuration(folder)
    rows = inspect_gguf(path).vocabulary_size
    loaded, content = load_tokenizer(folder, rows)
    guessed = read_converted(path, content, read_specials(folder, loaded, config))
    with pytest.raises(SourceError, match="built-in comparison"):
        check_tokens(path, guessed, loaded, folder)
    vocabulary, loaded = read_vocabulary(folder, config, rows)
    replace_vocabulary(path, vocabulary)
    inspect_gguf(path)
    assert check_tokens(path, vocabulary, loaded, folder) > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "model"]


def test_an_architecture_that_is_not_served_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    import transformers

    tokenizer = byte_level("gpt-2")
    write_tokenizer(tmp_path / "model", tokenizer, tokenizer_class="GPTNeoXTokenizer")
    config = transformers.GPTNeoXConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        eos_token_id=0,
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "model")
    words = ("compile", tmp_path / "model", "--converter", tree, "--no-tune", "-o")
    result = typed(*words, tmp_path / "out")
    assert result.exit_code == 1
    assert "the architecture 'gptneox' is none of gemma, gemma2" in str(result.exception)
    assert not (tmp_path / "out").exists()


def converter(folder: Path, project: str | None = None) -> Path:
    """A file that stands where a converter would, and what states its gguf's version."""
    (folder / "gguf-py").mkdir(parents=True)
    if project is not None:
        (folder / "gguf-py" / "pyproject.toml").write_text(project)
    (folder / "convert_hf_to_gguf.py").write_text("")
    return folder / "convert_hf_to_gguf.py"


@pytest.mark.parametrize(
    ("project", "version"),
    [
        ('[project]\nversion = "0.19.0"', "0.19.0"),
        ('[tool.poetry]\nversion = "0.17.1"', "0.17.1"),
        ('[project]\ndynamic = ["version"]', None),
        ("[project", None),
        (None, None),
    ],
    ids=["project", "poetry", "not stated", "no TOML", "no file"],
)
def test_a_version_is_the_one_that_is_stated_or_none(
    project: str | None, version: str | None, tmp_path: Path
) -> None:
    tool = find_converter(converter(tmp_path / "tree", project))
    assert tool is not None
    assert tool.versions.get("converter.gguf") == version
    assert "unknown" not in tool.versions.values()
    assert len(tool.versions["converter.sha256"]) == 64


def test_a_converter_without_a_gguf_of_its_own_takes_the_installed_one(tmp_path: Path) -> None:
    script = converter(tmp_path / "tree")
    (tmp_path / "tree" / "gguf-py").rmdir()
    tool = find_converter(script)
    assert tool is not None
    assert tool.versions["converter.gguf"] == importlib.metadata.version("gguf")
