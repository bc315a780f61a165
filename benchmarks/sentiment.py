"""A sentiment classifier three ways: a finetuned MiniLM, and a CNN and an LSTM from scratch.

    python -m benchmarks.sentiment [--steps N] [--model DIRECTORY]

The ready recipes `sentiment-minilm`, `cnn-classifier` and `lstm-classifier` on SST-2's 6,920
training sentences. The dev split is measured once, on the checkpoint that came out, and
chooses nothing. MiniLM's schedule has a fixed end, so it learns from every sentence and
its last checkpoint is taken; the other two stop early and are chosen on a tenth of train
that is held out for it. Minutes are those of the whole run, from reading the files to the
written checkpoint, with as many threads as the machine has cores. One run of each: another
seed moves accuracy by about a percent.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.prompts import shared_folder
from benchmarks.recipe_runs import RecipeRun, run

RECIPES = ("sentiment-minilm", "cnn-classifier", "lstm-classifier")
# SST-2 has about 7,000 words twice or more; the recipes ask for more than a small set has.
SMALL_VOCABULARY = "tokenizer.vocabulary_size=10000"


def sst2() -> Path:
    """Return the folder of SST-2's train.tsv and dev.tsv."""
    return (shared_folder() / "data" / "sst2").resolve()


def words_of(recipe: str, data: Path, model: Path) -> list[str]:
    """Return what the recipe is told beside what it says itself."""
    words = [f"data.train={data / 'train.tsv'}", "data.columns=text,label"]
    if recipe == "sentiment-minilm":
        return [*words, f"model.source={model.resolve()}", "data.validation_fraction=0"]
    return [*words, SMALL_VOCABULARY]


def row(recipe: str, measured: RecipeRun) -> dict[str, Any]:
    """Return the figures of one classifier."""
    if measured.evaluation is None:
        raise ValueError("the run was not evaluated")
    metrics = measured.evaluation["metrics"]
    low, high = measured.evaluation["intervals"]["accuracy"]
    return {
        "recipe": recipe,
        "accuracy": round(metrics["accuracy"], 4),
        "accuracy_95_percent": [round(low, 4), round(high, 4)],
        "f1_macro": round(metrics["f1_macro"], 4),
        "expected_calibration_error": round(metrics["expected_calibration_error"], 4),
        "minutes": round(measured.seconds / 60, 2),
        "processor_minutes": round(measured.processor_seconds / 60, 2),
        "parameters": measured.parameters,
        "steps": measured.summary["steps"],
        "chosen_step": measured.summary["best_step"] or measured.summary["steps"],
        "peak_mebibytes": round(measured.peak_mebibytes),
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print("recipe            accuracy (95%)           F1      ECE    minutes  parameters")
    for one in rows:
        low, high = one["accuracy_95_percent"]
        print(
            f"{one['recipe']:17} {one['accuracy']:.2%} ({low:.2%} to {high:.2%})  "
            f"{one['f1_macro']:.4f}  {one['expected_calibration_error']:.3f}  "
            f"{one['minutes']:7.1f}  {one['parameters']:10,}"
        )


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="instead of the recipes' own, for a try")
    parser.add_argument("--model", type=Path, default=Path("build/models/all-MiniLM-L6-v2"))
    options = parser.parse_args()
    data, threads = sst2(), os.cpu_count() or 1
    load = round(os.getloadavg()[0], 2)
    shorter = [] if options.steps is None else [f"run.steps={options.steps}"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="casemate-sentiment-") as scratch:
        for recipe in RECIPES:
            words = [*words_of(recipe, data, options.model), *shorter]
            output = Path(scratch) / recipe
            rows.append(
                row(recipe, run(recipe, words, output, evaluate=data / "dev.tsv", threads=threads))
            )
    show(rows)
    result = {
        "data": "SST-2: 6,920 sentences to learn from, 872 of dev measured; dev chooses nothing",
        "threads": threads,
        "load_average_before": load,
        "rows": rows,
    }
    print("wrote", report.write("sentiment", result, report.TRAINING_PACKAGES))


if __name__ == "__main__":
    main()
