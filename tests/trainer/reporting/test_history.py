"""The record: what is written, what a crash leaves, what a resumed run drops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.reporting.runs import plan, step, tell, validation
from trainer.reporting.history import (
    HISTORY_FILE,
    HistoryReporter,
    plan_from_dict,
    plan_to_dict,
    read_history,
)


def steps_of(folder: Path, kind: str = "step") -> list[int]:
    return [one["step"] for one in read_history(folder / HISTORY_FILE) if one["kind"] == kind]


def test_figures_are_there_while_the_run_goes_on(tmp_path: Path) -> None:
    reporter = HistoryReporter()
    tell(reporter, plan(tmp_path), until=25)
    # Not closed: what was reported is read by others already.
    assert steps_of(tmp_path) == [1, 10, 20]
    assert steps_of(tmp_path, "validation") == [20]
    reporter.finish({})


def test_an_entry_holds_the_figures(tmp_path: Path) -> None:
    reporter = HistoryReporter()
    tell(reporter, plan(tmp_path, steps=20))
    reporter.note("noted")
    reporter.finish({"stopped": None, "folder": tmp_path})
    entries = read_history(tmp_path / HISTORY_FILE)
    assert [one["kind"] for one in entries] == [
        "start", "step", "step", "step", "validation", "note", "finish",
    ]  # fmt: skip
    assert entries[2]["tokens"] == 10 * 1024
    assert entries[2]["mfu"] is None
    assert entries[4]["metrics"] == {"perplexity": pytest.approx(math.exp(1.8))}
    assert entries[5] == {"kind": "note", "step": 20, "text": "noted"}
    assert entries[6]["summary"] == {"stopped": None, "folder": str(tmp_path)}


def test_a_loss_that_is_no_number_is_still_json(tmp_path: Path) -> None:
    reporter = HistoryReporter()
    reporter.start(plan(tmp_path))
    reporter.step(step(1, loss=math.nan, gradient_norm=math.inf))
    reporter.finish({})
    lines = (tmp_path / HISTORY_FILE).read_text().splitlines()
    entry = json.loads(lines[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (entry["loss"], entry["gradient_norm"]) == ("nan", "inf")


def test_a_resumed_run_drops_what_it_makes_again(tmp_path: Path) -> None:
    tell(HistoryReporter(), plan(tmp_path), until=45)
    resumed = HistoryReporter()
    tell(resumed, plan(tmp_path, first_step=30))
    resumed.finish({})
    assert steps_of(tmp_path) == [1, 10, 20, 30, 31, 40, 50]
    assert steps_of(tmp_path, "validation") == [20, 40]
    assert steps_of(tmp_path, "start") == [0, 30]


def test_a_resumed_run_is_no_longer_finished(tmp_path: Path) -> None:
    stopped = HistoryReporter()
    tell(stopped, plan(tmp_path), until=30)
    stopped.finish({"stopped": "asked to"})
    HistoryReporter().start(plan(tmp_path, first_step=30))
    assert steps_of(tmp_path, "finish") == []
    assert steps_of(tmp_path) == [1, 10, 20, 30]


def test_a_run_from_the_start_begins_a_new_record(tmp_path: Path) -> None:
    tell(HistoryReporter(), plan(tmp_path), until=45)
    HistoryReporter().start(plan(tmp_path))
    assert [one["kind"] for one in read_history(tmp_path / HISTORY_FILE)] == ["start"]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_record_torn_anywhere_keeps_its_whole_lines(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    tell(HistoryReporter(), plan(folder))
    path = folder / HISTORY_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    kept = read_history(path)
    lines = whole[: min(cut, len(whole))].split(b"\n")
    assert len(kept) in (len(lines) - 1, len(lines))
    # What is appended after a resume is on lines of its own.
    resumed = HistoryReporter()
    resumed.start(plan(folder, first_step=50))
    resumed.validation(validation(50))
    entries = read_history(path)
    assert entries[: len(kept)] == kept
    assert [one["kind"] for one in entries[len(kept) :]] == ["start", "validation"]


def test_reading_stops_at_a_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_text(
        '{"kind":"note","step":1,"text":"a"}\n[1]\n{"kind":"note","step":2,"text":"b"}\n'
    )
    assert [one["step"] for one in read_history(path)] == [1]


def test_no_record_is_an_empty_one(tmp_path: Path) -> None:
    assert read_history(tmp_path / HISTORY_FILE) == []


def test_a_plan_goes_to_json_and_back(tmp_path: Path) -> None:
    run = plan(tmp_path, ranks=2, strategy="fsdp", tokens_per_step=1024.0)
    value = json.loads(json.dumps(plan_to_dict(run)))
    assert plan_from_dict(tmp_path, value) == run


def test_a_foreign_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run plan"):
        plan_from_dict(tmp_path, {"name": "x", "steps": 1, "colour": "blue"})
