"""`casemate` as typed, in this process, and recipes small enough for seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from casemate.cli.main import cli

# One process, two short layers, no drawings.
TINY = {
    "run.device": "cpu",
    "model.layers": 1,
    "model.width": 32,
    "model.heads": 2,
    "model.inner_width": 64,
    "model.filters": 16,
    "tokenizer.kind": "word",
    "tokenizer.minimum_count": 1,
    "data.sequence_length": 16,
    "optimizer.learning_rate": 5e-3,
    "optimizer.warmup_steps": 5,
    "batch.sequences": 16,
    "evaluation.samples": 0,
    "report.tensorboard": "false",
    "report.log_every_steps": 1,
}


def invoke(*words: str) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def casemate(*words: str) -> dict[str, Any]:
    """Run a command with --json and return what it prints."""
    shown: dict[str, Any] = json.loads(invoke(*words, "--json").stdout)
    return shown


def run(command: str, output: Path, **values: Any) -> dict[str, Any]:
    """Run `casemate train` or `finetune`; values are named section__key. Return the summary."""
    return casemate(*command_line(command, output, **values))


def command_line(command: str, output: Path, **values: Any) -> list[str]:
    """Return the words that run a tiny recipe with these values."""
    recipe = output.with_suffix(".toml")
    recipe.write_text("# every value is given on the command line\n")
    chosen = TINY | {name.replace("__", "."): value for name, value in values.items()}
    words = [f"{name}={value}" for name, value in chosen.items()]
    return [command, str(recipe), *words, "-o", str(output)]


def history(output: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's metrics.jsonl."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
