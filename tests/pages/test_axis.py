"""Axes: round ticks that hold the values."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.pages.axis import linear_axis, steps_axis, tick_text, value_axis

finite = st.one_of(st.just(0.0), st.floats(1e-9, 1e9), st.floats(-1e9, -1e-9))


def test_a_loss_axis() -> None:
    axis = value_axis([4.2, 1.5])
    assert list(axis.ticks) == [1, 2, 3, 4, 5]
    assert axis.position(3.0) == pytest.approx(0.5)
    assert tick_text(axis) == ["1", "2", "3", "4", "5"]


def test_a_learning_rate_axis_begins_at_zero() -> None:
    axis = value_axis([1e-3, 2e-4], from_zero=True)
    assert axis.ticks[0] == 0
    assert tick_text(axis) == ["0.0000", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"]


def test_orders_of_magnitude_are_logarithmic() -> None:
    axis = value_axis([0.01, 0.1, 30.0])
    assert axis.logarithmic
    assert axis.position(0.01) == pytest.approx(0)
    assert axis.position(30.0) == pytest.approx(1)
    assert axis.position(0.1) == pytest.approx(0.2876, abs=1e-4)
    assert all(0.01 <= tick <= 30.0 for tick in axis.ticks)


def test_steps_end_at_the_last() -> None:
    axis = steps_axis(0, 1999)
    assert (axis.low, axis.high) == (0, 1999)
    assert list(axis.ticks) == [0, 500, 1000, 1500]


def test_one_value_has_an_axis() -> None:
    axis = value_axis([2.0, 2.0])
    assert axis.low < 2.0 < axis.high
    assert steps_axis(5, 5).high > 5


def test_large_ticks_are_short() -> None:
    assert tick_text(value_axis([1, 15_000], from_zero=True)) == ["0", "5k", "10k", "15k"]


def test_values_that_differ_by_rounding_are_one_value() -> None:
    axis = value_axis([1e9, 1e9 + 1e-7])
    assert len(set(tick_text(axis))) == len(axis.ticks)


def test_large_values_close_together_are_told_apart() -> None:
    assert tick_text(value_axis([11_480, 11_520])) == [
        "11,480", "11,490", "11,500", "11,510", "11,520",
    ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=30), st.booleans())
def test_an_axis_holds_its_values_and_its_ticks_are_in_order(
    values: list[float], from_zero: bool
) -> None:
    axis = value_axis(values, from_zero=from_zero)
    slack = 1e-9 * max(abs(axis.low), abs(axis.high))
    assert axis.low <= min(values) + slack
    assert max(values) - slack <= axis.high
    assert 2 <= len(axis.ticks) <= 12
    assert list(axis.ticks) == sorted(set(axis.ticks))
    places = [axis.position(value) for value in sorted(values)]
    assert all(0 <= place <= 1 for place in places)
    assert places == sorted(places)
    texts = tick_text(axis)
    assert len(texts) == len(axis.ticks)
    # Ticks that read alike would tell nothing.
    assert len(set(texts)) == len(texts)


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_steps_axis_has_whole_ticks(first: int, more: int) -> None:
    axis = steps_axis(first, first + more)
    assert all(tick == int(tick) and axis.low <= tick <= axis.high for tick in axis.ticks)
    assert len(axis.ticks) <= 11


@settings(deadline=None)
@given(finite, st.floats(1e-6, 1e9))
def test_linear_ticks_are_round(low: float, spread: float) -> None:
    axis = linear_axis(low, low + spread)
    assert axis.ticks[0] == axis.low
    assert axis.ticks[-1] == axis.high
