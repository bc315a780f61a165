"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.reporting.runs import plan, step, tell
from trainer.reporting.tensorboard import FOLDER, TensorBoardReporter


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / FOLDER))
    events.Reload()
    return events


def test_figures_are_read_back(tmp_path: Path) -> None:
    reporter = TensorBoardReporter()
    tell(reporter, plan(tmp_path))
    reporter.finish({})
    events = read(tmp_path)
    losses = events.Scalars("train/loss")
    assert [one.step for one in losses] == [1, 10, 20, 30, 40, 50]
    assert losses[-1].value == pytest.approx(1.0 + math.exp(-5), rel=1e-5)
    assert [one.step for one in events.Scalars("validation/loss")] == [20, 40]
    assert {"train/learning_rate", "train/gradient_norm", "train/tokens"} <= set(
        events.Tags()["scalars"]
    )
    # Unknown on a CPU: no such curve rather than zeros.
    assert "speed/mfu" not in events.Tags()["scalars"]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    reporter = TensorBoardReporter()
    reporter.start(plan(tmp_path))
    reporter.step(step(1, loss=math.nan))
    reporter.finish({})
    assert "train/loss" not in read(tmp_path).Tags()["scalars"]


def test_a_resumed_run_hides_what_it_makes_again(tmp_path: Path) -> None:
    first = TensorBoardReporter()
    tell(first, plan(tmp_path), until=45)
    first.finish({})
    second = TensorBoardReporter()
    tell(second, plan(tmp_path, first_step=30))
    second.finish({})
    shown = [one.step for one in read(tmp_path).Scalars("train/loss")]
    assert sorted(shown) == [1, 10, 20, 30, 31, 40, 50]
