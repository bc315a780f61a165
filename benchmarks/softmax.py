"""Adaptive against full softmax: steps a second, perplexity and memory at 50,000 words.

    python -m benchmarks.softmax [--rounds 2] [--minutes 1.2]

The ready recipe `rnn-adaptive-softmax` (two LSTM layers of 512, batches of 32 x 64 words),
once as it is and once with objective.softmax=chunked: the full softmax without a matrix of
all logits, which is the quicker of the two full ones (see benchmarks.chunked_loss). Warm-up
and schedule are those of a run of minutes: 20 steps, then a constant rate.

The two take turns: a round is so many minutes of the one, then of the other, each in a
process that goes on from the checkpoint of the round before, so that whatever else the
machine does falls on both. Seconds are those of updates alone; perplexity is that of the
same held-out sequences, by the exact probabilities of each. Memory is the largest resident
set of a process, with saving and export.

The text is all English text in the shared data, a line a document: WikiText-2's validation
split, Shakespeare, and the texts of SST-2 and of the labelled tweets. It has more than
50,000 words, counting those that occur once; the rarest beyond 50,000 are unknown.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.prompts import shared_folder
from benchmarks.recipe_runs import RecipeRun, run
from trainer.reporting.history import HISTORY_FILE, Entry, read_history

RECIPE = "rnn-adaptive-softmax"
WAYS = ("adaptive", "chunked")
VOCABULARY = 50_000
EVERY_STEPS = 10
# 8,192 words: a validation must not cost more than a few updates.
VALIDATION_SEQUENCES = 128
_WORDS = (
    "data.format=lines",
    "tokenizer.minimum_count=1",
    f"tokenizer.vocabulary_size={VOCABULARY}",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=20",
    f"evaluation.every_steps={EVERY_STEPS}",
    f"evaluation.sequences={VALIDATION_SEQUENCES}",
    "evaluation.samples=0",
    "checkpoint.every_steps=0",
    "checkpoint.keep_best=false",
    "checkpoint.keep_last=1",
    "report.log_every_steps=1",
)


def lines_of(data: Path) -> Iterator[str]:
    """Yield every text of the shared data, on one line each."""
    for name in ("wikitext2/valid.txt", "shakespeare/input.txt"):
        yield from (data / name).read_text(encoding="utf-8").splitlines()
    for name in ("sst2/train.tsv", "sst2/dev.tsv"):
        for line in (data / name).read_text(encoding="utf-8").splitlines():
            yield line.rpartition("\t")[0]
    with (data / "abuse" / "hate_speech_train.csv").open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            yield " ".join(record["text"].split())


def write_text(data: Path, path: Path) -> int:
    """Write the lines that hold text to a file; return how many."""
    lines = [line for line in lines_of(data) if line.strip()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def curve(history: Sequence[Entry]) -> list[tuple[int, float, float]]:
    """Return (step, seconds of updates so far, perplexity) for every validation."""
    seconds = {one["step"]: one["seconds"] for one in history if one["kind"] == "step"}
    return [
        (one["step"], seconds[one["step"]], one["metrics"]["perplexity"])
        for one in history
        if one["kind"] == "validation"
    ]


def row(way: str, runs: Sequence[RecipeRun]) -> dict[str, Any]:
    """Return the figures of one way, over its rounds."""
    marks = [(0, 0.0), *((one.summary["steps"], one.summary["seconds"]) for one in runs)]
    rates = [(after[0] - before[0]) / (after[1] - before[1]) for before, after in pairwise(marks)]
    return {
        "softmax": way,
        "parameters": runs[0].parameters,
        "steps": marks[-1][0],
        "seconds": round(marks[-1][1], 1),
        "steps_per_second": round(statistics.median(rates), 3),
        "steps_per_second_of_rounds": [round(rate, 3) for rate in rates],
        "peak_mebibytes": round(max(one.peak_mebibytes for one in runs)),
    }


def compare(curves: dict[str, list[tuple[int, float, float]]]) -> dict[str, Any]:
    """Return the perplexities after as many steps, and after as much time."""
    steps = max(set.intersection(*({step for step, _, _ in one} for one in curves.values())))
    limit = min(one[-1][1] for one in curves.values())
    found: dict[str, Any] = {"same_steps": {"steps": steps}, "same_time": {}}
    for way, points in curves.items():
        found["same_steps"][way] = round(next(p for step, _, p in points if step == steps), 1)
        step, seconds, value = [point for point in points if point[1] <= limit][-1]
        found["same_time"][way] = {
            "perplexity": round(value, 1),
            "steps": step,
            "seconds": round(seconds, 1),
        }
    return found


def vocabulary_of(output: Path) -> int:
    """Return the size of the vocabulary that a run trained with."""
    config = json.loads((output / "final" / "config.json").read_text(encoding="utf-8"))
    return int(config["vocab_size"])


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"vocabulary {result['vocabulary']:,}")
    print("softmax    parameters  steps/s  peak MiB  perplexity: same steps, same time (steps)")
    for one in result["rows"]:
        way = one["softmax"]
        late = result["perplexity"]["same_time"][way]
        print(
            f"{way:10} {one['parameters']:10,}  {one['steps_per_second']:7.3f}  "
            f"{one['peak_mebibytes']:8,}  {result['perplexity']['same_steps'][way]:10,.1f} "
            f"({result['perplexity']['same_steps']['steps']})  "
            f"{late['perplexity']:10,.1f} ({late['steps']})"
        )
    print(f"steps/s of adaptive over chunked: {result['steps_per_second_ratio']}")


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1.2, help="of a round of one softmax")
    options = parser.parse_args()
    threads, load = os.cpu_count() or 1, round(os.getloadavg()[0], 2)
    runs: dict[str, list[RecipeRun]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="casemate-softmax-") as name:
        scratch = Path(name)
        lines = write_text((shared_folder() / "data").resolve(), scratch / "text.txt")
        words = [*_WORDS, f"data.train={scratch / 'text.txt'}", f"data.cache={scratch / 'shards'}"]
        words.append(f"run.max_minutes={options.minutes}")
        for _ in range(options.rounds):
            for way in WAYS:
                softmax = f"objective.softmax={way}"
                runs[way].append(run(RECIPE, [*words, softmax], scratch / way, threads=threads))
        curves = {way: curve(read_history(scratch / way / HISTORY_FILE)) for way in WAYS}
        vocabulary = vocabulary_of(scratch / WAYS[0])
    rows = [row(way, runs[way]) for way in WAYS]
    result: dict[str, Any] = {
        "data": "WikiText-2 validation, Shakespeare, SST-2 and labelled tweets; 5% held out",
        "lines": lines,
        "vocabulary": vocabulary,
        "threads": threads,
        "rounds": options.rounds,
        "minutes_of_a_round": options.minutes,
        "load_average_before": load,
        "rows": rows,
        "steps_per_second_ratio": round(
            rows[0]["steps_per_second"] / rows[1]["steps_per_second"], 2
        ),
        "perplexity": compare(curves),
    }
    show(result)
    print("wrote", report.write("softmax", result, report.TRAINING_PACKAGES))


if __name__ == "__main__":
    main()
