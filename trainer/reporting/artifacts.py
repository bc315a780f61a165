"""What a run leaves for its report, beside the record: evaluation and samples.

`evaluation.json` is an `EvaluationResult`, `samples.json` a list of texts that the model
wrote. Samples are the model's own words; a model that memorized can repeat training
text in them, which is why they lie in the run folder and in the report, never in a log.
Both are escaped to ASCII: labels and what a model writes need not be text that UTF-8
can hold.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.evaluation.result import EvaluationResult, Sample
from trainer.reporting.files import write_whole

EVALUATION_FILE = "evaluation.json"
SAMPLES_FILE = "samples.json"


def write_evaluation(run_folder: Path, result: EvaluationResult) -> Path:
    """Write an evaluation into a run folder, whole or not at all; return the file."""
    path = run_folder / EVALUATION_FILE
    write_whole(path, json.dumps(result.to_dict(), indent=1) + "\n")
    return path


def write_samples(run_folder: Path, samples: Sequence[Sample]) -> Path:
    """Write samples into a run folder, whole or not at all; return the file."""
    path = run_folder / SAMPLES_FILE
    values = [dataclasses.asdict(sample) for sample in samples]
    write_whole(path, json.dumps(values, indent=1) + "\n")
    return path


def read_evaluation(run_folder: Path) -> EvaluationResult | None:
    """Return the evaluation of a run, None if there is none.

    Raises:
        ValueError: the file is no evaluation.
        OSError: it is there and cannot be read.
    """
    value = _read(run_folder / EVALUATION_FILE)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{EVALUATION_FILE} holds no evaluation")
    return EvaluationResult.from_dict(value)


def read_samples(run_folder: Path) -> list[Sample]:
    """Return the samples of a run; none if there is no file.

    Raises:
        ValueError: the file holds no samples.
        OSError: it is there and cannot be read.
    """
    values = _read(run_folder / SAMPLES_FILE)
    try:
        return [
            Sample(str(one["prompt"]), str(one["text"]), float(one["temperature"]))
            for one in values or ()
        ]
    except (KeyError, TypeError) as problem:
        raise ValueError(f"{SAMPLES_FILE} holds no samples") from problem


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
