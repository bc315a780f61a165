"""What privacy costs on SST-2: MiniLM without it, with it, and in stock opacus's hands.

    python -m benchmarks.private_sentiment [ROW ...] [--work FOLDER] [--minutes 8] [--threads 1]

Rows of one table, each a run of a process of its own:

- sentiment-minilm: the whole encoder finetuned without privacy. What privacy takes away is
  counted from here; the share of the gain is over always naming the commoner label.
- private-8, private-3: the ready recipe `sentiment-private` at epsilon 8 and 3, through
  all of `casemate finetune --private`: secret draws, ledger, report.
- opacus-8, opacus-3: opacus with the same LoRA, optimizer, batch, epsilon and delta, with a
  fresh output layer, for the same wall time as our row at that epsilon.
- opacus-same-8, opacus-same-3: as these, but it too starts from what the labels mean.

A row that lies in the work folder is not made again, and rows may be made side by side by
several calls, one thread each. Dev chooses nothing here; learning rate, clip and rank were
chosen on a held-out eighth of the training sentences, which nobody's epsilon counts (the
same for all rows). One run of each: another seed moves accuracy by about a percent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.recipe_runs import RunFailed, run
from benchmarks.sentiment import sst2

RECIPE = "sentiment-private"
REFERENCE = "sentiment-minilm"
ROWS = (
    REFERENCE,
    *("private-8", "private-3", "opacus-8", "opacus-3", "opacus-same-8", "opacus-same-3"),
)
_FRESH = "parts.label_texts=[]"


def epsilon_of(row: str) -> float:
    """Return the epsilon that ends a row's name."""
    return float(row.rpartition("-")[2])


def common_words(model: Path, data: Path) -> list[str]:
    """Return what every recipe is told."""
    files = [f"data.train={data / 'train.tsv'}", "data.columns=text,label"]
    return [*files, f"model.source={model.resolve()}", "data.validation_fraction=0"]


def ours(row: str, words: list[str], work: Path, threads: int) -> dict[str, Any]:
    """Make a row by a recipe of the trainer's."""
    recipe = REFERENCE if row == REFERENCE else RECIPE
    more = [] if row == REFERENCE else [f"privacy.epsilon={epsilon_of(row)}"]
    output = work / f"{row}.run"
    found = run(recipe, [*words, *more], output, evaluate=sst2() / "dev.tsv", threads=threads)
    if found.evaluation is None:
        raise RunFailed("the run was not evaluated")
    figures = {
        "accuracy": found.evaluation["metrics"]["accuracy"],
        "accuracy_95_percent": found.evaluation["intervals"]["accuracy"],
        "steps": found.summary["steps"],
        "seconds": found.seconds,
        "peak_mebibytes": round(found.peak_mebibytes),
    }
    if row != REFERENCE:
        claim = json.loads((Path(found.summary["checkpoint"]) / "privacy.json").read_text())
        figures["epsilon"] = claim["claim"]["epsilon"]
        figures["delta"] = claim["claim"]["delta"]
        figures["noise_multiplier"] = claim["mechanism"]["noise_multiplier"]
    return figures


def by_opacus(row: str, words: list[str], seconds: float, threads: int) -> dict[str, Any]:
    """Make a row with opacus, in the seconds given."""
    more = [f"privacy.epsilon={epsilon_of(row)}", *([] if "same" in row else [_FRESH])]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.opacus_sentiment", RECIPE]
    command += [*words, *more, "--seconds", str(seconds)]
    command += ["--evaluate", str(sst2() / "dev.tsv")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RunFailed(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"epsilon": epsilon_of(row)}


def make(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return a row, from the work folder or made now."""
    kept = options.work / f"{row}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    words = common_words(options.model, sst2())
    words += [] if options.steps is None else [f"run.steps={options.steps}"]
    load = round(os.getloadavg()[0], 2)
    if row.startswith("opacus"):
        found = by_opacus(row, words, options.minutes * 60, options.threads)
    else:
        found = ours(row, words, options.work, options.threads)
    found |= {"threads": options.threads, "load_average_before": load}
    kept.write_text(json.dumps(found))
    return found


def summarize(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row what it keeps of the gain without privacy."""
    labels = [line.rpartition("\t")[2] for line in (sst2() / "dev.tsv").read_text().splitlines()]
    chance = max(labels.count(label) for label in set(labels)) / len(labels)
    gain = rows[REFERENCE]["accuracy"] - chance
    return [
        {
            "row": name,
            "gain_kept": round((found["accuracy"] - chance) / gain, 4),
            "seconds_a_step": round(found["seconds"] / found["steps"], 3),
            **found,
        }
        for name, found in rows.items()
    ]


def main() -> None:
    """Make rows; with all of them there, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks/private_sentiment"))
    parser.add_argument("--model", type=Path, default=Path("build/models/all-MiniLM-L6-v2"))
    parser.add_argument("--minutes", type=float, default=8.0, help="of an opacus row")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, help="instead of the recipes' own, for a try")
    options = parser.parse_args()
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    options.work.mkdir(parents=True, exist_ok=True)
    for row in options.rows or ROWS:
        found = make(row, options)
        print(
            f"{row:17} {found['accuracy']:.2%}  {found['steps']:4} steps  "
            f"{found['seconds']:7.1f} s",
            flush=True,
        )
    if not all((options.work / f"{row}.json").is_file() for row in ROWS):
        return
    result = {
        "data": "SST-2: 6,920 sentences to learn from, 872 of dev measured",
        "rows": summarize({row: make(row, options) for row in ROWS}),
    }
    packages = (*report.TRAINING_PACKAGES, "opacus", "dp-accounting")
    print("wrote", report.write("private_sentiment", result, packages))


if __name__ == "__main__":
    main()
