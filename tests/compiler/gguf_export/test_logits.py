"""llama.cpp computes with the GGUF what transformers computes with the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.gguf_export.export import export_gguf
from compiler.gguf_export.families import FAMILIES
from tests.compiler.gguf_export.models import Llama, byte_level, reference_logits, write_model

TOKENS = 60
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, dict[str, Any], float]] = {
    "tied": ("llama", {"tie_word_embeddings": True}, 1e-3),
    "untied": ("llama", {"tie_word_embeddings": False}, 1e-3),
    "one head of keys": ("llama", {"num_key_value_heads": 1}, 1e-3),
    "wide heads and biases": (
        "llama",
        {"head_dim": 16, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-4},
        1e-3,
    ),
    "stretched": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 1e-3),
    "llama 3.1": ("llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3}, 1e-3),
    "mistral": ("mistral", {"sliding_window": None}, 1e-3),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, 1e-3),
    "qwen3": ("qwen3", {"head_dim": 16}, 1e-3),
    # ggml looks this activation up in a table of float16, whatever the weights are.
    "gemma3": (
        "gemma3_text",
        {
            "num_hidden_layers": 7,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 16,
        },
        2e-2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_the_same(case: str, tmp_path: Path) -> None:
    family, changes, tolerance = CASES[case]
    model = write_model(tmp_path / "model", family, **changes)
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", dtype="f32", report=print)
    ids = np.random.default_rng(0).integers(1, model.config.vocab_size, TOKENS).tolist()
    wanted = reference_logits(model, ids)
    with Llama(made.path) as llama:
        found = llama.logits(ids)
    assert np.abs(wanted).max() > 1, "the model says nothing; the comparison would prove nothing"
    np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.1), ("bf16", 0.6), ("q8_0", 1.5)])
def test_smaller_types_round(dtype: str, tolerance: float, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", dtype=dtype, report=print)
    ids = np.random.default_rng(0).integers(1, model.config.vocab_size, TOKENS).tolist()
    wanted = reference_logits(model, ids)
    with Llama(made.path) as llama:
        difference = np.abs(llama.logits(ids) - wanted).max()
    assert 0 < difference < tolerance


def test_a_model_in_half_precision_loses_nothing(tmp_path: Path) -> None:
    import torch

    model = write_model(tmp_path / "model", tie_word_embeddings=False)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", dtype="bf16", report=print)
    from gguf import GGUFReader

    tensors = {tensor.name: tensor for tensor in GGUFReader(made.path).tensors}
    stored = np.asarray(tensors["output.weight"].data).view(np.uint16)
    wanted = model.lm_head.weight.detach().view(torch.uint16).numpy()
    np.testing.assert_array_equal(stored.reshape(wanted.shape), wanted)


def test_many_files_are_one_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "one")
    export_gguf(tmp_path / "one", tmp_path / "one.gguf", report=print)
    write_model(tmp_path / "many")
    (tmp_path / "many" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    made = export_gguf(tmp_path / "many", tmp_path / "many.gguf", report=print)
    assert len(made.weights) > 1
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_windows_shorten_the_context(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "mistral", sliding_window=64)
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", report=print)
    assert made.context_tokens == 64
    assert any("window" in note for note in made.notes)


def test_rows_without_a_token_are_kept(tmp_path: Path) -> None:
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    model = write_model(tmp_path / "model", tokenizer=tokenizer, vocab_size=size + 24)
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", dtype="f32", report=print)
    with Llama(made.path) as llama:
        assert llama.size == size + 24
        difference = llama.logits([5, 6, 7]) - reference_logits(model, [5, 6, 7])
    assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("kind", FAMILIES)
def test_defaults_are_those_of_the_class(kind: str) -> None:
    from transformers import AutoConfig

    known = AutoConfig.for_model(kind).to_dict()
    stated = dict(FAMILIES[kind].defaults)
    if not known.get("use_sliding_window", True):
        # Without the switch the class forgets the window.
        known["sliding_window"] = stated["sliding_window"]
    assert {name: known[name] for name in stated} == stated
