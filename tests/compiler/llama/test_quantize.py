"""Formats of tensors: what changes, what stays, and what is refused."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from compiler.errors import QuantizationError, SourceError
from compiler.llama.gguf_file import open_gguf
from compiler.llama.job import run_job
from compiler.llama.plan import GgufPlan
from compiler.llama.quality import compare, make_reference
from compiler.llama.quantize import quantize_gguf


def contents(path: Path) -> dict[str, bytes]:
    """Bytes of every tensor."""
    with open_gguf(path) as file:
        return {tensor.name: bytes(file.rows(tensor)) for tensor in file.tensors}


def test_keep_changes_no_byte(tiny: Path, tmp_path: Path) -> None:
    result = quantize_gguf(tiny, tmp_path / "kept.gguf", GgufPlan())
    assert contents(result.path) == contents(tiny)
    assert result.rounding == {}


def test_only_the_named_tensors_change(tiny: Path, tmp_path: Path) -> None:
    plan = GgufPlan(tensors=((r"blk\.\d+\.ffn_down\.weight", "Q8_0"),))
    result = quantize_gguf(tiny, tmp_path / "out.gguf", plan)
    before, after = contents(tiny), contents(result.path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"}
    reader = {t.name: t for t in gguf.GGUFReader(result.path).tensors}
    tensor = reader["blk.0.ffn_down.weight"]
    exact = np.frombuffer(before[tensor.name], np.float32).reshape(-1, 128)
    found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert np.abs(found - exact).max() <= np.abs(exact).max() / 127


def test_untying_leaves_the_embedding_alone(tied: Path, tmp_path: Path, tokens: list[int]) -> None:
    plan = GgufPlan(output="Q8_0", untie=True)
    result = quantize_gguf(tied, tmp_path / "untied.gguf", plan)
    before, after = contents(tied), contents(result.path)
    assert {name: after[name] for name in before} == before
    assert result.types["output.weight"] == "Q8_0"
    reference = make_reference(tied, tokens, tmp_path / "reference", window=64, windows=3)
    quality = compare(result.path, reference)
    assert 0 <= quality.kl_mean < 0.01
    assert quality.tokens == 3 * 31


def test_llama_cpps_mix_and_a_named_tensor(tiny: Path, tmp_path: Path) -> None:
    named = (("blk.0.attn_q.weight", "Q4_0"),)
    plan = GgufPlan(default="Q4_K_M", output="Q8_0", tensors=named)
    result = quantize_gguf(tiny, tmp_path / "mix.gguf", plan)
    assert result.types["output.weight"] == "Q8_0"
    assert result.types["blk.1.attn_q.weight"] != "F32"
    # Plain rounding here is llama.cpp's, to the last bit.
    ours = quantize_gguf(tiny, tmp_path / "ours.gguf", GgufPlan(output="Q8_0", tensors=named))
    theirs = contents(result.path)
    for name in ("output.weight", "blk.0.attn_q.weight"):
        assert contents(ours.path)[name] == theirs[name]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"])
def test_each_format_is_written_as_llama_cpp_reads_it(
    tied: Path, tmp_path: Path, importance: Path, kind: str
) -> None:
    plan = GgufPlan(output=kind, untie=True, rounding="feedback")
    result = quantize_gguf(tied, tmp_path / "out.gguf", plan, imatrix=importance)
    assert result.rounding == {"output.weight": "imatrix" if kind == "Q8_0" else "feedback"}
    with open_gguf(result.path) as file:
        assert file.summary.tensor_types[kind] == 1


def test_equal_plans_give_equal_bytes(tied: Path, tmp_path: Path, importance: Path) -> None:
    plan = GgufPlan(output="IQ4_NL", untie=True, rounding="feedback")
    first = quantize_gguf(tied, tmp_path / "first.gguf", plan, imatrix=importance)
    second = quantize_gguf(tied, tmp_path / "second.gguf", plan, imatrix=importance)
    assert first.sha256 == second.sha256
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (GgufPlan(output="Q4_K"), "rows of 64 are no multiple of 256.*Q5_0 would fit"),
        (GgufPlan(tensors=(("no such", "Q4_0"),)), "matches no matrix"),
        (GgufPlan(output="Q4_0", untie=True), "nothing to untie"),
        (GgufPlan(default="Q4_0", rounding="imatrix"), "needs an importance matrix"),
        (GgufPlan(default="Q4_K_M", rounding="feedback"), "llama.cpp itself"),
    ],
    ids=["k-quant-of-narrow-rows", "pattern", "not-tied", "no-importance", "mix-with-feedback"],
)
def test_refused_plans(tiny: Path, tmp_path: Path, plan: GgufPlan, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize_gguf(tiny, tmp_path / "out.gguf", plan)
    assert list(tmp_path.iterdir()) == []


def test_a_default_falls_back_by_name(tiny: Path, tmp_path: Path) -> None:
    result = quantize_gguf(tiny, tmp_path / "out.gguf", GgufPlan(default="Q4_K"))
    assert result.fallbacks["blk.0.attn_q.weight"] == "Q5_0"


def test_a_target_that_exists_stays(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(SourceError, match="exists already"):
        quantize_gguf(tiny, out, GgufPlan())
    assert out.read_bytes() == b"mine"


def test_rows_that_are_no_whole_blocks_are_refused(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    types = {"token_embd.weight": "Q4_K"}  # 64 columns: ggml would write beyond its buffer
    with open_gguf(tiny) as file:
        types = {tensor.name: tensor.type for tensor in file.tensors} | types
    arguments = {"source": str(tiny), "out": str(out), "types": types, "imatrix": None}
    with pytest.raises(QuantizationError, match="rows of 64 are no whole blocks of Q4_K"):
        run_job("rewrite", arguments | {"rounding": "plain"})


_FULL_DISK = """
import pathlib, resource, sys
from compiler.llama.plan import GgufPlan
from compiler.llama.quantize import quantize_gguf
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
source, out, form = sys.argv[1:]
try:
    quantize_gguf(pathlib.Path(source), pathlib.Path(out), GgufPlan(default=form))
except OSError as error:
    print("OSError")
"""


@pytest.mark.parametrize("form", ["Q8_0", "Q4_K_M"])
def test_a_full_disk_leaves_nothing(form: str, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
    command = [sys.executable, "-c", _FULL_DISK, str(tiny), str(out), form]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == "OSError\n", result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_json_and_back() -> None:
    plan = GgufPlan(output="IQ4_NL", untie=True, tensors=(("a.*", "Q8_0"),), rounding="feedback")
    assert GgufPlan.from_dict(plan.to_dict()) == plan
    with pytest.raises(QuantizationError, match="no field"):
        GgufPlan.from_dict({"colour": "red"})
    with pytest.raises(QuantizationError, match="none of"):
        GgufPlan(default="Q9_9")
