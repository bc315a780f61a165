"""So many events in a period, and no more."""

from __future__ import annotations

from runtime.worker.allowance import Allowance


def test_one_more_than_the_limit_is_too_many() -> None:
    allowance = Allowance(3, 10.0)
    assert [allowance.take(now) for now in (0.0, 1.0, 2.0, 9.9)] == [True, True, True, False]


def test_a_new_period_begins_anew() -> None:
    allowance = Allowance(1, 10.0)
    assert [allowance.take(now) for now in (5.0, 14.9, 15.0, 40.0)] == [True, False, True, True]
