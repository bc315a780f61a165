"""Finetuning with adapters, from a run's start to a checkpoint that has none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.loop.runs import load_tiny, run_here


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    run_here(load_tiny(folder, "run.steps=4", "evaluation.samples=0"), folder / "run")
    return folder / "run" / "final"


def test_an_adapted_run_resumes_exactly_and_is_exported_merged(base: Path, tmp_path: Path) -> None:
    words = (
        f"model.source={base}",
        "parts.adapter=lora",
        "parts.lora_rank=2",
        "run.steps=6",
        "checkpoint.every_steps=2",
        "evaluation.samples=0",
    )
    summary = run_here(load_tiny(tmp_path, *words), tmp_path / "whole")
    run_here(load_tiny(tmp_path, *words), tmp_path / "parts", stop_after=3)
    assert not (tmp_path / "parts" / "final").exists()
    run_here(load_tiny(tmp_path, *words), tmp_path / "parts")
    whole = load_file(tmp_path / "whole" / "final" / "model.safetensors")
    parts = load_file(tmp_path / "parts" / "final" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    assert whole.keys() == before.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = {name for name in whole if not torch.equal(whole[name], before[name])}
    assert moved == {
        f"model.layers.{layer}.self_attn.{matrix}_proj.weight"
        for layer in range(2)
        for matrix in "qv"
    }
    assert summary["steps"] == 6
