"""Early stopping, and its state as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import CheckpointError
from trainer.optimization.stopping import EarlyStopping


def test_it_stops_after_so_many_validations_without_a_better_loss() -> None:
    stopping = EarlyStopping(patience=2)
    assert [stopping.update(loss) for loss in (3.0, 2.0, 2.5)] == [True, True, False]
    stops = [stopping.should_stop]
    assert not stopping.update(2.0)  # as good is not better
    assert [*stops, stopping.should_stop] == [False, True]
    assert stopping.best == 2.0


def test_a_better_loss_starts_the_count_again() -> None:
    stopping = EarlyStopping(patience=2)
    for loss in (3.0, 3.1, 2.9, 3.0):
        stopping.update(loss)
    assert not stopping.should_stop


def test_no_patience_never_stops() -> None:
    stopping = EarlyStopping(patience=0)
    for loss in (1.0, 2.0, 3.0, 4.0):
        stopping.update(loss)
    assert not stopping.should_stop


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    stopping = EarlyStopping(patience=1)
    assert not stopping.update(float("nan"))
    assert stopping.best is None
    assert stopping.update(5.0)
    assert not stopping.update(float("nan"))
    assert stopping.best == 5.0


@given(st.lists(st.floats(0, 10), max_size=20), st.integers(0, 20), st.integers(0, 4))
def test_a_restored_state_goes_on_as_if_uninterrupted(
    losses: list[float], cut: int, patience: int
) -> None:
    whole = EarlyStopping(patience)
    for loss in losses:
        whole.update(loss)
    first = EarlyStopping(patience)
    for loss in losses[:cut]:
        first.update(loss)
    second = EarlyStopping(patience)
    second.restore(json.loads(json.dumps(first.state())))
    for loss in losses[cut:]:
        second.update(loss)
    assert second.state() == whole.state()
    assert second.should_stop == whole.should_stop


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"best": "low", "waited": 0},
        {"best": True, "waited": 0},
        {"best": 1.0},
        {"best": 1.0, "waited": -1},
        {"best": 1.0, "waited": True},
        {"best": None, "waited": 1.5},
    ],
)
def test_a_foreign_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="early-stopping"):
        EarlyStopping(1).restore(state)
