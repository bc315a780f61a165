"""Small runs of a character decoder, in this process or in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.distribution.environment import Ranks
from trainer.distribution.group import connect
from trainer.loop.interrupts import StopRequest
from trainer.loop.session import Session
from trainer.recipe.parse import LoadedRecipe, load_recipe
from trainer.reporting.history import HistoryReporter
from trainer.reporting.reporter import Reporters, RunPlan, StepReport, ValidationReport

ROOT = Path(__file__).parents[3]

_RECIPE = """
[run]
steps = 12
[model]
layers = 2
width = 16
heads = 2
dropout = 0.1
[tokenizer]
kind = "character"
[data]
train = ["corpus.txt"]
sequence_length = 16
[batch]
sequences = 8
micro_sequences = 2
[optimizer]
warmup_steps = 3
learning_rate = 0.01
[evaluation]
every_steps = 6
sequences = 16
samples = 1
sample_tokens = 8
[checkpoint]
every_steps = 4
[report]
tensorboard = false
log_every_steps = 1
"""


def write_recipe(folder: Path) -> Path:
    """Write a recipe and its corpus; return the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"line {number} tells that {number * number} is a square.\n" for number in range(250)]
    (folder / "corpus.txt").write_text("".join(lines))
    path = folder / "tiny.toml"
    path.write_text(_RECIPE)
    return path


def load_tiny(folder: Path, *overrides: str) -> LoadedRecipe:
    """Return the recipe of `write_recipe` with changes."""
    return load_recipe(write_recipe(folder), overrides)


class At:
    """A reporter that does something after a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step = step
        self._act = act

    def start(self, plan: RunPlan) -> None:
        del plan

    def step(self, report: StepReport) -> None:
        if report.step == self._step:
            self._act()

    def validation(self, report: ValidationReport) -> None:
        del report

    def note(self, text: str) -> None:
        del text

    def finish(self, summary: Mapping[str, Any]) -> None:
        del summary


def run_here(
    loaded: LoadedRecipe, output: Path, *, stop_after: int | None = None
) -> dict[str, Any]:
    """Run in this process, on one rank; ask for a stop after a step if wanted."""
    output.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    members: list[Any] = [HistoryReporter()]
    if stop_after is not None:
        members.append(At(stop_after, stop.ask))
    with connect(Ranks(), torch.device("cpu"), 15.0) as group:
        summary = Session(loaded, output, Ranks(), group, Reporters(members)).run(stop)
    if summary is None:
        raise AssertionError("the only rank returned no summary")
    return summary


def command(recipe: Path, output: Path, *words: str) -> list[str]:
    """Return the words of `casemate train` for a recipe."""
    casemate = [sys.executable, "-m", "casemate.cli.main", "train"]
    return [*casemate, str(recipe), *words, "-o", str(output)]


def start(words: list[str], **environ: str) -> subprocess.Popen[str]:
    """Start a command with the project on its path."""
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environ},
    )


def losses(output: Path) -> dict[int, float]:
    """Return the training loss of every step in a run's history."""
    entries = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if entry["kind"] == "step"}
