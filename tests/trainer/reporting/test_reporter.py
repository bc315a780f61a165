"""Several reporters as one, and one of them failing."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.reporting.runs import plan, step, tell
from trainer.reporting.reporter import Reporters, RunPlan, StepReport, ValidationReport, is_due


class Listener:
    """Remembers what it was told; fails with `problem` at step `fails_at`."""

    def __init__(self, fails_at: int = 0, problem: Exception | None = None) -> None:
        self.told: list[str] = []
        self._fails_at = fails_at
        self._problem = problem

    def start(self, plan: RunPlan) -> None:
        self.told.append(f"start {plan.name}")

    def step(self, report: StepReport) -> None:
        if report.step == self._fails_at and self._problem is not None:
            raise self._problem
        self.told.append(f"step {report.step}")

    def validation(self, report: ValidationReport) -> None:
        self.told.append(f"validation {report.step}")

    def note(self, text: str) -> None:
        self.told.append(f"note {text}")

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.told.append(f"finish {dict(summary)}")


def test_everyone_is_told_everything(tmp_path: Path) -> None:
    listeners = Listener(), Listener()
    both = Reporters(listeners)
    tell(both, plan(tmp_path, steps=20))
    both.note("a note")
    both.finish({"steps": 20})
    expected = ["start tiny", *(f"step {number}" for number in range(1, 21)), "validation 20"]
    expected += ["note a note", "finish {'steps': 20}"]
    assert listeners[0].told == listeners[1].told == expected


def test_a_reporter_whose_disk_is_full_is_dropped_with_a_note(tmp_path: Path) -> None:
    full = Listener(fails_at=2, problem=OSError(errno.ENOSPC, "No space left on device"))
    well = Listener()
    both = Reporters([full, well])
    both.start(plan(tmp_path))
    for number in (1, 2, 3):
        both.step(step(number))
    assert full.told == ["start tiny", "step 1"]
    note = "note Listener stopped: No space left on device; the run goes on"
    assert sorted(well.told) == sorted(["start tiny", "step 1", "step 2", note, "step 3"])


def test_a_defect_is_not_swallowed(tmp_path: Path) -> None:
    both = Reporters([Listener(fails_at=1, problem=KeyError("defect"))])
    both.start(plan(tmp_path))
    with pytest.raises(KeyError):
        both.step(step(1))


def test_due_are_the_first_the_last_and_every_tenth(tmp_path: Path) -> None:
    run = plan(tmp_path, steps=25, first_step=3)
    assert [number for number in range(4, 26) if is_due(run, number)] == [4, 10, 20, 25]
