"""Two ranks learn what one learns; a rank that dies is named, and the run goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.trainer.loop.runs import command, load_tiny, losses, run_here, start, write_recipe

_PATIENCE_SECONDS = 90.0


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a command; return what it wrote to stderr."""
    _, errors = process.communicate(timeout=_PATIENCE_SECONDS)
    return errors


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_give_the_loss_curve_of_one(tmp_path: Path, strategy: str) -> None:
    words = ("run.steps=50", "checkpoint.every_steps=25", "model.dropout=0")
    run_here(load_tiny(tmp_path, *words), tmp_path / "one")
    recipe = write_recipe(tmp_path)
    sharing = f"distribution.strategy={strategy}"
    both = start(command(recipe, tmp_path / "two", *words, sharing, "--ranks", "2"))
    errors = finished(both)
    assert both.returncode == 0, errors
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert sorted(two) == list(range(1, 51))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5


def rank_processes(parent: int) -> list[psutil.Process]:
    """Return the ranks below a launcher: processes of ours without children of ours."""
    family = psutil.Process(parent).children(recursive=True)
    return [each for each in family if each.environ().get("RANK") is not None]


def test_a_killed_rank_is_named_and_one_rank_goes_on_with_the_curve(tmp_path: Path) -> None:
    # Far more steps than are waited for: the ranks are certain to be at work when one dies.
    words = (
        "run.steps=5000",
        "checkpoint.every_steps=10",
        "model.dropout=0",
        "evaluation.every_steps=0",
    )
    recipe = write_recipe(tmp_path)
    output = tmp_path / "run"
    both = start(command(recipe, output, *words, "--ranks", "2"))
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not list(output.glob("checkpoints/step-*0")) and time.monotonic() < deadline:
            if both.poll() is not None:
                break
            time.sleep(0.05)
        victim = next(r for r in rank_processes(both.pid) if r.environ()["RANK"] == "1")
        killed = time.monotonic()
        victim.send_signal(signal.SIGKILL)
        errors = finished(both)
    finally:
        both.kill()
    assert time.monotonic() - killed < 30
    assert both.returncode != 0
    assert re.search(r"rank 1\b", errors), errors
    assert "Traceback" not in errors

    reached = max(losses(output))
    loaded = load_tiny(tmp_path, *words)
    run_here(loaded, output, stop_after=reached + 5)
    run_here(loaded, tmp_path / "one", stop_after=reached + 5)
    whole, continued = losses(tmp_path / "one"), losses(output)
    assert sorted(continued) == sorted(whole)
    assert max(abs(whole[step] - continued[step]) for step in whole) < 1e-4


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    words = command(recipe, tmp_path / "run", "run.steps=2000", "evaluation.every_steps=0")
    first = start(words)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        history = tmp_path / "run" / "metrics.jsonl"
        while time.monotonic() < deadline and first.poll() is None:
            if history.exists() and history.read_text().count("\n") > 3:
                break
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        output, errors = first.communicate(timeout=_PATIENCE_SECONDS)
    finally:
        first.kill()
    # What a shell says of a command that Ctrl-C ended: nothing may follow on "&&".
    assert first.returncode == 130, errors
    assert "stopped after step" in output + errors
    assert "Traceback" not in errors
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    last = max(losses(tmp_path / "run"))
    assert saved[-1].name == f"step-{last:08d}"


def test_two_ranks_whose_time_is_over_end_together(tmp_path: Path) -> None:
    words = ("run.steps=100000", "run.max_minutes=0.02", "evaluation.every_steps=0")
    recipe = write_recipe(tmp_path)
    both = start(command(recipe, tmp_path / "run", *words, "--ranks", "2"))
    try:
        errors = finished(both)
    finally:
        both.kill()
    assert both.returncode == 0, errors
    assert (tmp_path / "run" / "final" / "training.json").exists()
