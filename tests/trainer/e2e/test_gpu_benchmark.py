"""The GPU benchmark runs everywhere but on GPUs only for a result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
_PATIENCE_SECONDS = 100


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark where no GPU can be seen."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_training", *words],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
    )


def figures(words: list[str]) -> dict[str, Any]:
    """The figures of one tiny run."""
    done = benchmark("--tiny", "--steps", "2", "--warm-up", "1", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert len(found) == 1
    return dict(found[0])


def test_without_a_gpu_it_says_so_and_writes_nothing() -> None:
    result = ROOT / "benchmarks" / "results" / "gpu_training.json"
    before = result.read_bytes() if result.exists() else None
    done = benchmark()
    assert done.returncode == 2
    assert "no GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert (result.read_bytes() if result.exists() else None) == before


@pytest.mark.parametrize(
    ("run", "recipe", "ranks"),
    [("124m", "decoder-124m-h100", 1), ("1b-fsdp", "decoder-1b-fsdp", 2)],
)
def test_a_tiny_run_goes_the_whole_way(run: str, recipe: str, ranks: int) -> None:
    found = figures(["--only", run])
    assert (found["run"], found["recipe"], found["ranks"]) == (run, recipe, ranks)
    assert found["updates"] == 2
    assert found["vocabulary_size"] == 512
    assert found["dtype"] == "bfloat16"
    assert (
        found["passes_a_rank"] * found["micro_sequences"] * ranks * 64
        == (found["tokens_an_update"])
    )
    assert found["tokens_per_second"] > 0
    # What a CPU has no figure for is not made up.
    assert found["mfu"] is None
    assert found["peak_memory_gib"] is None
    assert found["loss_from"] == pytest.approx(6.24, abs=0.3)


def test_an_override_that_no_recipe_has_is_named() -> None:
    done = benchmark("--tiny", "--only", "124m", "batch.micro_sequence=1")
    assert done.returncode != 0
    assert "batch.micro_sequence" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_private_step_is_measured_beside_the_ordinary_one_and_opacus() -> None:
    done = benchmark("--tiny", "--only", "private")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " 4 x 8 " in line]
    sizes = {tuple(line.split(", ")[:2]) for line in lines}
    assert {(f, a) for f in ("encoder", "decoder") for a in ("lora", "none")} <= sizes
    assert len(lines) == 4 * len(sizes)
    for line in lines:
        assert (" ms " in line and " x " in line) or " opacus " in line, line
    # Of the first one memory as well.
    assert "MiB" in lines[0]
