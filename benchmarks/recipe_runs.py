"""Runs of recipes for benchmarks, each in a process of its own.

    python -m benchmarks.recipe_runs RECIPE --output RUN [--evaluate FILE] [KEY=VALUE ...]

The process runs the recipe as `casemate train` does, then measures the checkpoint that
came out on other files, and prints one line of JSON. A process each, because peak memory
belongs to one and nothing that a run leaves loaded may weigh on the next.

It refuses nothing that the trainer does not refuse. A run that fails raises, with the
trainer's message.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# A benchmark reads what a run returns; pages and event files only take time.
_QUIET = ("report.tensorboard=false", "report.html=false", "run.device=cpu")


class RunFailed(RuntimeError):
    """A run ended with an error."""


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """What a run of a recipe gave.

    Attributes:
        summary: of the run, as in its summary.json.
        evaluation: of its checkpoint on the files to evaluate, as in evaluation.json;
            None where none were given.
        seconds: from reading the recipe to the summary; without Python's imports and
            without `evaluation`.
        processor_seconds: of all threads in that time; says more than `seconds` where the
            machine had other work.
        peak_mebibytes: the largest resident set of the process in that time.
        parameters: of the network.
    """

    summary: dict[str, Any]
    evaluation: dict[str, Any] | None
    seconds: float
    processor_seconds: float
    peak_mebibytes: float
    parameters: int


def run(
    recipe: str,
    words: Sequence[str],
    output: Path,
    *,
    evaluate: Path | None = None,
    threads: int = 2,
) -> RecipeRun:
    """Run a recipe in a new process.

    Args:
        recipe: a ready recipe's name, or a file.
        words: overrides, `section.key=value`.
        output: the run's folder; a run that lies there goes on.
        evaluate: a file to measure the checkpoint on.
        threads: of the process.

    Raises:
        RunFailed: with what the process printed on stderr.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.recipe_runs", recipe]
    command += [*_QUIET, *words, "--output", str(output)]
    if evaluate is not None:
        command += ["--evaluate", str(evaluate)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise RunFailed(f"{recipe} {' '.join(words)}: {result.stderr.strip()}")
    return RecipeRun(**json.loads(result.stdout.splitlines()[-1]))


def _run_here(recipe: str, words: Sequence[str], output: Path, evaluate: Path | None) -> RecipeRun:
    """Run a recipe in this process."""
    from trainer.evaluation.checkpoint import evaluate_checkpoint
    from trainer.loop import session
    from trainer.recipe.parse import load_recipe

    began, used = time.perf_counter(), time.process_time()
    summary = session.run(load_recipe(recipe, words), output, quiet=True)
    seconds, spent = time.perf_counter() - began, time.process_time() - used
    # Linux gives kibibytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if summary is None or not summary["finished"]:
        raise RunFailed("the run was stopped before its end")
    evaluation = None
    if evaluate is not None:
        found = evaluate_checkpoint(Path(summary["checkpoint"]), [evaluate], device="cpu")
        evaluation = found.to_dict()
    plan = json.loads((output / "run.json").read_text())
    return RecipeRun(summary, evaluation, seconds, spent, peak, plan["parameters"])


def main() -> None:
    """Run one recipe and print what it gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path)
    options = parser.parse_args()
    found = _run_here(options.recipe, options.words, options.output, options.evaluate)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
