"""A made-up run, told to reporters as the loop does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from trainer.reporting.reporter import Reporter, RunPlan, StepReport, ValidationReport


def plan(folder: Path, **changes: Any) -> RunPlan:
    values: dict[str, Any] = {
        "name": "tiny",
        "folder": folder,
        "steps": 50,
        "family": "decoder",
        "objective": "next-token",
        "parameters": 803_456,
        "trainable": 803_456,
        "device": "cpu (1 threads)",
        "log_every_steps": 10,
        "recipe": {"run": {"steps": 50, "seed": 1337}, "model": {"family": "decoder"}},
        "recipe_digest": "ab" * 32,
        "sources": ({"name": "play.txt", "sha256": "cd" * 32, "bytes": 2048, "role": "train"},),
        "environment": {"torch": "2.13.0"},
    }
    return RunPlan(**{**values, **changes})


def step(number: int, **changes: Any) -> StepReport:
    values: dict[str, Any] = {
        "step": number,
        "loss": 1.0 + math.exp(-number / 10),
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "tokens": number * 1024,
        "seconds": number * 0.1,
        "tokens_per_second": 10_240.0,
    }
    return StepReport(**{**values, **changes})


def validation(number: int, loss: float = 1.5, *, best: bool = True) -> ValidationReport:
    return ValidationReport(number, loss, {"perplexity": math.exp(loss)}, best)


def tell(reporter: Reporter, run: RunPlan, *, until: int | None = None) -> None:
    """Report a run from its first step on, with a validation every 20 steps."""
    reporter.start(run)
    last = run.steps if until is None else until
    for number in range(run.first_step + 1, last + 1):
        reporter.step(step(number))
        if number % 20 == 0:
            reporter.validation(validation(number, loss=2.0 - number / 100))
