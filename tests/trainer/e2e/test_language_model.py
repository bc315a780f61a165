"""A language model from text to a measured checkpoint, by the commands alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from security.errors import UsageError
from tests.trainer.e2e.small import answer, small_decoder, typed, write_text
from trainer.errors import MemoryEstimateError, RecipeError
from trainer.recipe.digest import recipe_digest
from trainer.recipe.parse import load_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("data") / "corpus.txt")


@pytest.fixture(scope="module")
def finished(corpus: Path) -> tuple[Path, dict[str, object]]:
    """A finished run: its folder and its summary."""
    folder = corpus.parent / "run"
    summary = answer(typed("train", *small_decoder(corpus), "-o", folder, "--json"))
    return folder, summary


def test_a_run_learns_and_leaves_what_it_promises(
    finished: tuple[Path, dict[str, object]], corpus: Path
) -> None:
    folder, summary = finished
    assert summary["finished"] is True
    assert summary["steps"] == 24
    loss = summary["validation_loss"]
    assert isinstance(loss, float)
    assert loss < 2.9  # about ln(30) before training
    for name in ("recipe.toml", "metrics.jsonl", "report.html", "summary.json", "checkpoints"):
        assert (folder / name).exists(), name
    record = json.loads((folder / "final" / "training.json").read_text())
    recipe = load_recipe("char-shakespeare-cpu", small_decoder(corpus)[1:]).recipe
    assert record["recipe"]["digest"] == recipe_digest(recipe)
    assert recipe_digest(load_recipe(folder / "recipe.toml").recipe) == recipe_digest(recipe)


def test_no_log_or_record_holds_the_corpus(finished: tuple[Path, dict[str, object]]) -> None:
    folder, _ = finished
    for name in ("metrics.jsonl", "summary.json", "recipe.toml", "final/training.json"):
        assert "lighthouse" not in (folder / name).read_text(), name


def test_a_finished_run_is_refused_and_untouched(
    finished: tuple[Path, dict[str, object]], corpus: Path
) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = typed("train", *small_decoder(corpus), "-o", folder)
    assert isinstance(again.exception, UsageError)
    assert "is finished" in str(again.exception)
    other = typed("train", *small_decoder(corpus, "run.seed=5"), "-o", folder)
    assert isinstance(other.exception, RecipeError)
    assert "run.seed was 1337, is 5" in str(other.exception)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_evaluate_measures_other_text_of_the_kind(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    other = write_text(tmp_path / "other.txt", sentences=80, seed=9)
    found = answer(typed("evaluate", finished[0], other, "--device", "cpu", "--json"))
    assert found["objective"] == "next-token"
    assert found["metrics"]["perplexity"] < 20
    assert found["metrics"]["bits_per_byte"] > 0
    shown = typed("evaluate", finished[0], other, "--device", "cpu", "--limit", "4")
    assert "perplexity" in shown.stdout


def test_evaluate_scores_a_text_and_what_comes_next(
    finished: tuple[Path, dict[str, object]],
) -> None:
    words = ("--device", "cpu", "--top-k", "3", "--json")
    likely = answer(typed("evaluate", finished[0] / "final", "--text", "the lamp", *words))
    assert len(likely["tokens"]) == len("the lamp")
    assert len(likely["next"]) == 3
    unlikely = answer(typed("evaluate", finished[0] / "final", "--text", "pmal eht", *words))
    assert likely["total_logprob"] > unlikely["total_logprob"]


def test_two_ranks_print_one_document_and_learn_the_same(
    finished: tuple[Path, dict[str, object]], corpus: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "casemate.cli.main", "train", *small_decoder(corpus)]
    command += ["-o", str(tmp_path / "two"), "--ranks", "2", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["validation_loss"] == pytest.approx(finished[1]["validation_loss"], abs=1e-4)


def started(recipe: Sequence[str], output: Path) -> subprocess.Popen[str]:
    """A run in a process of its own, once it has left its first checkpoint."""
    command = [sys.executable, "-m", "casemate.cli.main", "train", *recipe, "-o", str(output)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 100
    while not list((output / "checkpoints").glob("step-????????")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    return process


def test_ctrl_c_keeps_what_was_learned_and_says_how_to_go_on(corpus: Path, tmp_path: Path) -> None:
    run = started(small_decoder(corpus, "run.steps=2000"), tmp_path / "run")
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert said == f"stopped after step {summary['steps']:,}; the same command goes on from there\n"
    saved = max((tmp_path / "run" / "checkpoints").iterdir())
    assert saved.name == f"step-{summary['steps']:08}"
    assert not (tmp_path / "run" / "final").exists()


def test_a_killed_run_goes_on_and_ends_bit_for_bit_the_same(corpus: Path, tmp_path: Path) -> None:
    recipe = small_decoder(corpus, "run.steps=240", "model.dropout=0.1")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert typed("train", *recipe, "-o", whole).exception is None
    first = started(recipe, cut)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (cut / "final").exists()
    again = typed("train", *recipe, "-o", cut)
    assert again.exception is None, again.output
    assert f"continuing the run in {cut}" in again.stderr
    ours = load_file(cut / "final" / "model.safetensors")
    theirs = load_file(whole / "final" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] == value).all(), name


def test_what_does_not_fit_is_refused_with_figures_before_it_starts(
    corpus: Path, tmp_path: Path
) -> None:
    words = small_decoder(corpus, "batch.sequences=100000000")
    result = typed("train", *words, "-o", tmp_path / "large")
    assert isinstance(result.exception, MemoryEstimateError)
    assert "GiB" in str(result.exception)
    assert not (tmp_path / "large" / "checkpoints" / "step-00000008").exists()
