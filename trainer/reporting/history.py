"""The run's own record: `metrics.jsonl`, one JSON object a line, and `run.json`.

Lines are appended and flushed, so what was reported is there after a crash; a last line
that a crash tore is dropped on reading and cut off before the next append. A resumed
run first drops the entries past the restored step, which it is about to make again:
the file never holds two figures of one step and kind. No training text is in it. Numbers
that JSON has no name for are the strings "nan", "inf" and "-inf"; text is escaped to
ASCII, since a file's name need not be text that UTF-8 can hold.

Entries: {"kind": "start" | "step" | "validation" | "note" | "finish", ...}. Notes carry
the step they were made after.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from trainer.reporting.files import write_whole
from trainer.reporting.reporter import RunPlan, StepReport, ValidationReport, is_due

HISTORY_FILE = "metrics.jsonl"
PLAN_FILE = "run.json"

Entry = dict[str, Any]


class HistoryReporter:
    """Writes the record of a run into its folder."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._plan: RunPlan | None = None
        self._step = 0

    def start(self, plan: RunPlan) -> None:
        """Write the plan; drop entries past the restored step; open the record.

        Raises:
            OSError: the folder cannot be written.
        """
        plan.folder.mkdir(parents=True, exist_ok=True)
        path = plan.folder / HISTORY_FILE
        kept = [
            one for one in read_history(path) if plan.first_step and one["step"] <= plan.first_step
        ]
        # A "finish" before the restored step belongs to a run that is going on after all.
        kept = [one for one in kept if one["kind"] != "finish"]
        write_whole(path, "".join(_line(one) for one in kept))
        write_whole(
            plan.folder / PLAN_FILE, json.dumps(_plain(plan_to_dict(plan)), indent=1) + "\n"
        )
        self._plan, self._step = plan, plan.first_step
        self._file = path.open("a", encoding="utf-8")
        self._append({"kind": "start", "step": plan.first_step, "ranks": plan.ranks})

    def step(self, report: StepReport) -> None:
        """Append an update's figures, if they are due."""
        self._step = report.step
        if self._plan is not None and is_due(self._plan, report.step):
            self._append({"kind": "step", **dataclasses.asdict(report)})

    def validation(self, report: ValidationReport) -> None:
        """Append a validation's figures."""
        entry = {"step": report.step, "loss": report.loss, "best": report.best}
        self._append({"kind": "validation", **entry, "metrics": dict(report.metrics)})

    def note(self, text: str) -> None:
        """Append a note."""
        self._append({"kind": "note", "step": self._step, "text": text})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Append the summary and close."""
        self._append({"kind": "finish", "step": self._step, "summary": dict(summary)})
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, entry: Entry) -> None:
        if self._file is not None:
            self._file.write(_line(entry))
            self._file.flush()


def read_history(path: Path) -> list[Entry]:
    """Return the entries of a record, in order; none if there is no file.

    Reading stops at the first line that is no entry: a crash tears only the last one,
    and what follows a damaged line cannot be trusted to be of the same run.

    Raises:
        OSError: the file is there and cannot be read.
    """
    entries: list[Entry] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return entries
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if (
            not isinstance(entry, dict)
            or "kind" not in entry
            or not isinstance(entry.get("step"), int)
        ):
            break
        entries.append(entry)
    return entries


def plan_to_dict(plan: RunPlan) -> dict[str, Any]:
    """Return the JSON form of a plan, without the folder it lies in."""
    fields = {one.name: getattr(plan, one.name) for one in dataclasses.fields(plan)}
    del fields["folder"]
    fields["sources"] = [dict(source) for source in plan.sources]
    fields["recipe"] = {name: dict(section) for name, section in plan.recipe.items()}
    fields["environment"] = dict(plan.environment)
    return fields


def plan_from_dict(folder: Path, value: Mapping[str, Any]) -> RunPlan:
    """Return the plan a JSON form describes.

    Raises:
        ValueError: a value is missing or unknown.
    """
    try:
        fields = {**value, "sources": tuple(dict(one) for one in value.get("sources", ()))}
        return RunPlan(folder=folder, **fields)
    except TypeError as problem:
        raise ValueError(f"{PLAN_FILE} holds no run plan: {problem}") from problem


def _line(entry: Entry) -> str:
    return json.dumps(_plain(entry), separators=(",", ":")) + "\n"


def _plain(value: Any) -> Any:
    """Return a value as strict JSON takes it: a loss that is no number becomes "nan"."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
