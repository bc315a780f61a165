"""A character decoder on Tiny Shakespeare, by the command that the README gives.

    python -m benchmarks.shakespeare [--goal 1.88] [KEY=VALUE ...]

Runs `casemate train char-shakespeare-cpu data.train=.../input.txt` as it is, in a process
of its own, and watches what it writes. The validation set is the last tenth of the file
(111,540 characters), as in nanoGPT, whose baby GPT reaches 1.88 nats a character on a
laptop; every validation goes over all of it, in windows of 64 characters.

Seconds count from the start of the command, imports, tokenizing and validations included;
`seconds_to_goal` is when a validation with the goal's loss or a lower one was written. The
last loss is that of the exported checkpoint, read back from its files.

Overrides are for looking around; with them no result is written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.prompts import shared_folder
from trainer.reporting.history import HISTORY_FILE, read_history

GOAL = 1.88
GOAL_MINUTES = 10
POLL_SECONDS = 0.2


def corpus() -> Path:
    """Return the file of Tiny Shakespeare.

    Raises:
        SystemExit: it is not there.
    """
    path = shared_folder().resolve() / "data" / "shakespeare" / "input.txt"
    if not path.is_file():
        raise SystemExit(f"the benchmark needs {path}: set CASEMATE_SHARED")
    return path


def train(text: Path, output: Path, words: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Run the command; return its validations with their seconds, and the seconds in all."""
    command = [sys.executable, "-m", "casemate.cli.main", "train", "char-shakespeare-cpu"]
    command += [f"data.train={text}", *words, "-o", str(output)]
    seen: list[dict[str, Any]] = []
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            note_validations(output / HISTORY_FILE, seen, time.monotonic() - began)
        seconds = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(process.returncode)
    note_validations(output / HISTORY_FILE, seen, seconds)
    return seen, seconds


def note_validations(history: Path, seen: list[dict[str, Any]], seconds: float) -> None:
    """Add the validations that have been written since."""
    found = [entry for entry in read_history(history) if entry["kind"] == "validation"]
    seen.extend(
        {"step": entry["step"], "loss": round(entry["loss"], 4), "seconds": round(seconds, 1)}
        for entry in found[len(seen) :]
    )


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--goal", type=float, default=GOAL, help="validation loss, nats")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="casemate-bench-") as name:
        output = Path(name) / "run"
        validations, seconds = train(corpus(), output, options.overrides)
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        plan = json.loads((output / "run.json").read_text(encoding="utf-8"))
    reached = [each["seconds"] for each in validations if each["loss"] <= options.goal]
    result = {
        "recipe": "char-shakespeare-cpu",
        "parameters": plan["parameters"],
        "device": plan["device"],
        "steps": summary["steps"],
        "validation_loss": round(summary["evaluation"]["loss"], 4),
        "goal": {"validation_loss": options.goal, "minutes": GOAL_MINUTES},
        "seconds_to_goal": reached[0] if reached else None,
        "seconds": round(seconds, 1),
        "seconds_of_updates": round(summary["seconds"], 1),
        "tokens_per_second": round(summary["tokens_per_second"]),
        "validations": validations,
        "load_average_before": load,
    }
    print(json.dumps(result, indent=2))
    if not options.overrides:
        print("wrote", report.write("shakespeare", result, report.TRAINING_PACKAGES))


if __name__ == "__main__":
    main()
