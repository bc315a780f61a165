"""Importance, quality, speed and sensitivity, on a tiny model that llama.cpp really runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import QuantizationError, SourceError
from compiler.llama.imatrix import gather_imatrix, tokenize
from compiler.llama.importance_file import read_importance
from compiler.llama.plan import GgufPlan
from compiler.llama.quality import compare, make_reference, reference_perplexity, summarize
from compiler.llama.quantize import quantize_gguf
from compiler.llama.sensitivity import measure_groups, rank_tensors
from compiler.llama.speed import SpeedSettings, measure_speeds
from security.errors import CasemateError


def test_importance_of_every_matrix_and_the_output_layer(importance: Path) -> None:
    found = read_importance(importance)
    names = {f"blk.{n}.{part}.weight" for n in (0, 1) for part in ("attn_q", "ffn_down")}
    assert names | {"output.weight"} <= set(found.squares)
    output = found.moments["output.weight"]
    assert output.shape == (64, 64)
    np.testing.assert_allclose(np.diagonal(output), found.squares["output.weight"], rtol=1e-4)
    # The norm before the output layer has weight one: mean square one.
    assert found.squares["output.weight"].mean() == pytest.approx(1, rel=0.05)


def test_text_too_short_is_refused_with_figures(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="600 tokens make 1 windows of 512; at least 2048"):
        gather_imatrix(tiny, [5] * 600, tmp_path / "out")
    with pytest.raises(QuantizationError, match="100 tokens; 3 windows of 512 need 1536"):
        make_reference(tiny, [5] * 100, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_importance_file_is_refused(importance: Path, tmp_path: Path) -> None:
    data = importance.read_bytes()
    damaged = {"cut": data[:-4], "longer": data + b"x", "other": b"{}\n", "empty": b""}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(QuantizationError):
            read_importance(tmp_path / name)


def test_a_file_compared_with_itself(tiny: Path, tmp_path: Path, tokens: list[int]) -> None:
    reference = make_reference(tiny, tokens, tmp_path / "reference", window=64, windows=2)
    # Tokens of a text, and a model's answers to it, are the user's alone.
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    quality = compare(tiny, reference)
    assert abs(quality.kl_mean) < 1e-4
    assert quality.top1 > 0.95
    assert quality.perplexity == pytest.approx(reference_perplexity(reference), rel=1e-4)
    (tmp_path / "reference.f16").write_bytes(b"")
    with pytest.raises(QuantizationError, match="cut short"):
        compare(tiny, reference)


def test_figures_of_positions_become_means_and_bounds() -> None:
    kl = np.array([0.0, 0.2])
    quality = summarize(kl, np.log([4.0, 4.0]), np.log([2.0, 2.0]), np.array([1.0, 0.0]))
    assert quality.kl_mean == pytest.approx(0.1)
    assert quality.perplexity_ratio == pytest.approx(2)
    assert quality.top1 == 0.5
    assert quality.kl_low <= quality.kl_mean <= quality.kl_high
    assert math.isclose(quality.perplexity, 4)


def test_speeds_are_measured_in_turns(tiny: Path) -> None:
    candidates = [(tiny, SpeedSettings()), (tiny, SpeedSettings(flash=False))]
    results = measure_speeds(candidates, batches=(1, 2), prefill=64, seconds=0.05, rounds=2)
    assert len(results) == 2
    for speed in results:
        assert set(speed.decode) == {1, 2}
        assert 0 < speed.decode[1].low <= speed.decode[1].median <= speed.decode[1].high
        assert speed.prefill.low > 0
        assert speed.load_seconds.low > 0
        assert speed.peak_mib > 0


def test_tokens_are_the_files_own(tiny: Path) -> None:
    tokens = tokenize(tiny, "the rain")
    assert tokens[0] == 1
    assert len(tokens) > 2


def test_a_coarser_format_is_worse(tied: Path, importance: Path, tmp_path: Path) -> None:
    coarse = rank_tensors(tied, importance, "Q4_0")
    fine = {tensor.name: tensor.error for tensor in rank_tensors(tied, importance, "Q8_0")}
    assert all(tensor.error > 10 * fine[tensor.name] for tensor in coarse)
    assert [t.error for t in coarse] == sorted((t.error for t in coarse), reverse=True)


def test_groups_are_measured_one_by_one(tied: Path, tmp_path: Path, tokens: list[int]) -> None:
    reference = make_reference(tied, tokens, tmp_path / "reference", window=64, windows=2)
    effects = measure_groups(tied, reference, "Q4_0", groups=("ffn_down", "token_embd"))
    assert {effect.group for effect in effects} == {"ffn_down", "token_embd"}
    assert effects[0].quality.kl_mean >= effects[1].quality.kl_mean
    assert all(effect.saved_bytes > 0 for effect in effects)


def test_a_file_that_is_no_gguf_never_reaches_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(SourceError, match="no such file"):
        tokenize(path, "text")
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CasemateError):
        quantize_gguf(path, tmp_path / "out.gguf", GgufPlan())
