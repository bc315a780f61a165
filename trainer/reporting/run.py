"""What is known of a run, read from its folder for the report.

Everything may be missing or damaged: a report is made of what there is, and each piece
that could not be read becomes a remark in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from casemate.pages.chart import Point
from trainer.evaluation.result import EvaluationResult, Sample
from trainer.reporting.artifacts import read_evaluation, read_samples
from trainer.reporting.history import HISTORY_FILE, PLAN_FILE, Entry, plan_from_dict, read_history
from trainer.reporting.reporter import RunPlan

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes:
        plan: what was to run; only a name if the plan is missing.
        steps: entries of updates, by step.
        validations: entries of validations, by step.
        notes: (step, text) of what was noted.
        summary: what the run ended with; None while it has not ended.
        resumed: the steps it was resumed after.
        evaluation: figures of the final weights.
        samples: texts that the final weights wrote.
        remarks: what could not be read.
    """

    plan: RunPlan
    steps: tuple[Entry, ...] = ()
    validations: tuple[Entry, ...] = ()
    notes: tuple[tuple[int, str], ...] = ()
    summary: Mapping[str, Any] | None = None
    resumed: tuple[int, ...] = ()
    evaluation: EvaluationResult | None = None
    samples: tuple[Sample, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def curve(self, name: str) -> list[Point]:
        """Return a figure of the updates over the steps; entries without it are left out."""
        return _curve(self.steps, name)

    def validation_curve(self, name: str) -> list[Point]:
        """Return a figure of the validations: "loss", or one of their metrics."""
        if name == "loss":
            return _curve(self.validations, name)
        flat = ({"step": one["step"], **_mapping(one.get("metrics"))} for one in self.validations)
        return _curve(flat, name)


def read_run(folder: Path) -> RunRecord:
    """Return what a run folder tells; never raises for what is missing or damaged in it."""
    remarks: list[str] = []
    plan = _try(PLAN_FILE, remarks, lambda: _read_plan(folder)) or RunPlan(folder.name, folder, 0)
    entries = _try(HISTORY_FILE, remarks, lambda: read_history(folder / HISTORY_FILE)) or []
    evaluation = _try("the evaluation", remarks, lambda: read_evaluation(folder))
    samples = _try("the samples", remarks, lambda: read_samples(folder)) or []
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(str(entry["kind"]), []).append(entry)
    endings = kinds.get("finish", [])
    return RunRecord(
        plan=plan,
        steps=tuple(kinds.get("step", ())),
        validations=tuple(kinds.get("validation", ())),
        notes=tuple((one["step"], str(one.get("text", ""))) for one in kinds.get("note", ())),
        summary=_mapping(endings[-1].get("summary")) if endings else None,
        resumed=tuple(one["step"] for one in kinds.get("start", ()) if one["step"]),
        evaluation=evaluation,
        samples=tuple(samples),
        remarks=tuple(remarks),
    )


def _read_plan(folder: Path) -> RunPlan | None:
    try:
        value = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{PLAN_FILE} holds no run plan")
    return plan_from_dict(folder, value)


def _try(name: str, remarks: list[str], read: Callable[[], _Read]) -> _Read | None:
    try:
        return read()
    except (OSError, ValueError) as problem:
        # The kind of problem only: a message could quote what the file holds.
        remarks.append(f"{name} could not be read ({type(problem).__name__}).")
        return None


def _curve(entries: Any, name: str) -> list[Point]:
    points = []
    for entry in entries:
        try:
            points.append((float(entry["step"]), float(entry[name])))
        except (KeyError, TypeError, ValueError):
            continue
    return sorted(points)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
