"""What label smoothing and augmentation change: two text classifiers with each on and off.

    python -m benchmarks.regularization [--seeds 3] [--steps 300]

The ready recipes `cnn-classifier` and `lstm-classifier` are trained from scratch on SST-2,
once for each setting and seed, everything else being equal. The checkpoint is chosen on a
tenth of train that is held out, and measured on the dev split, which chooses nothing.
Figures are means over the seeds with their standard deviation and the difference from the
setting `neither`, since one seed more or less says nothing at this size. As many runs go
on at one time as the machine has cores, one thread each.

Word dropout and token masking are near relations here: the LSTM's vocabulary has no mask
token, so that both put the unknown token in place of words (of all pieces between spaces,
or of each token); the CNN's has one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.recipe_runs import run
from benchmarks.sentiment import sst2, words_of

RECIPES = ("cnn-classifier", "lstm-classifier")
_OFF = {
    "objective.label_smoothing": 0.0,
    "augmentation.word_dropout": 0.0,
    "augmentation.token_masking": 0.0,
    "augmentation.token_deletion": 0.0,
}
NEITHER = "neither"
SETTINGS: dict[str, dict[str, float]] = {
    NEITHER: {},
    "label smoothing 0.1": {"objective.label_smoothing": 0.1},
    "word dropout 0.1": {"augmentation.word_dropout": 0.1},
    "token masking 0.1": {"augmentation.token_masking": 0.1},
    "token deletion 0.1": {"augmentation.token_deletion": 0.1},
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    recipe: str
    setting: str
    seed: int


def measure(case: Case, steps: int, data: Path) -> dict[str, float]:
    """Train one classifier and measure it on dev."""
    values = _OFF | SETTINGS[case.setting] | {"run.seed": case.seed, "run.steps": steps}
    words = [*words_of(case.recipe, data, Path()), *(f"{key}={one}" for key, one in values.items())]
    with tempfile.TemporaryDirectory(prefix="casemate-regularization-") as scratch:
        found = run(case.recipe, words, Path(scratch) / "run", evaluate=data / "dev.tsv", threads=1)
    if found.evaluation is None:
        raise ValueError("the run was not evaluated")
    metrics = found.evaluation["metrics"]
    return {
        "accuracy": metrics["accuracy"],
        "expected_calibration_error": metrics["expected_calibration_error"],
        "loss": found.evaluation["loss"],
        "steps": found.summary["steps"],
    }


def row(recipe: str, setting: str, runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return mean and standard deviation of the runs of one setting."""
    accuracies = [round(single["accuracy"], 4) for single in runs]
    found: dict[str, Any] = {"recipe": recipe, "setting": setting, "accuracies": accuracies}
    for figure in runs[0]:
        values = [single[figure] for single in runs]
        found[figure] = round(statistics.mean(values), 4)
        if len(values) > 1:
            found[f"{figure}_deviation"] = round(statistics.stdev(values), 4)
    return found


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    base = {one["recipe"]: one["accuracy"] for one in rows if one["setting"] == NEITHER}
    print("recipe           setting                 accuracy        gain   ECE            loss")
    for one in rows:
        print(
            f"{one['recipe']:16} {one['setting']:23} "
            f"{one['accuracy']:.2%} ± {one.get('accuracy_deviation', 0):.2%}  "
            f"{one['accuracy'] - base[one['recipe']]:+.2%}  "
            f"{one['expected_calibration_error']:.3f} ± "
            f"{one.get('expected_calibration_error_deviation', 0):.3f}  {one['loss']:.3f}"
        )


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    data, workers = sst2(), os.cpu_count() or 1
    cases = [
        Case(recipe, setting, seed)
        for recipe in RECIPES
        for setting in SETTINGS
        for seed in range(options.seeds)
    ]
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        found = dict(
            zip(
                cases,
                pool.map(lambda case: measure(case, options.steps, data), cases),
                strict=True,
            )
        )
    rows = [
        row(recipe, setting, [found[Case(recipe, setting, seed)] for seed in range(options.seeds)])
        for recipe in RECIPES
        for setting in SETTINGS
    ]
    show(rows)
    result = {
        "data": "SST-2; chosen on a held-out tenth of train, measured on dev",
        "seeds": options.seeds,
        "steps_at_most": options.steps,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "rows": rows,
    }
    print("wrote", report.write("regularization", result, report.TRAINING_PACKAGES))


if __name__ == "__main__":
    main()
