"""Curves: what is drawn, smoothed, thinned and said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.pages.chart import Series, line_chart, smooth, thin
from tests.pages.parsed import Parsed

curves = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000).map(
    lambda values: [(float(at), value) for at, value in enumerate(values)]
)


def test_a_chart_says_its_figures_in_words() -> None:
    chart = line_chart("Loss", [Series("training", [(1, 4.0), (10, 1.5)])])
    assert chart is not None
    parsed = Parsed(chart)
    assert parsed.problems == []
    said = [value for _, name, value in parsed.attributes if name == "aria-label"]
    assert said == ["Loss over steps 1 to 10: training ends at 1.500"]
    assert "training 1.500" in parsed.text


def test_nothing_finite_is_no_chart() -> None:
    assert line_chart("Loss", [Series("training", [])]) is None
    assert line_chart("Loss", [Series("training", [(1, math.nan), (2, math.inf)])]) is None


def test_values_that_are_no_numbers_are_left_out() -> None:
    chart = line_chart("Loss", [Series("a", [(1, 1.0), (2, math.nan), (3, 2.0)])])
    assert chart is not None
    assert "nan" not in chart


def test_one_point_is_a_dot() -> None:
    chart = line_chart("Loss", [Series("a", [(5, 1.0)])])
    assert chart is not None
    assert "dot tone1" in chart


def test_many_points_are_smoothed_over_faint_ones() -> None:
    few = [(float(at), 1.0) for at in range(15)]
    many = [(float(at), 1.0) for at in range(100)]
    assert "faint" not in (line_chart("Loss", [Series("a", few, smooth=True)]) or "")
    assert "faint" in (line_chart("Loss", [Series("a", many, smooth=True)]) or "")


def test_a_hostile_name_is_text() -> None:
    name = "<svg onload=alert(1)>"
    chart = line_chart(name, [Series(name, [(1, 1.0), (2, 2.0)], dots=True, remark=name)])
    parsed = Parsed(chart or "")
    assert parsed.problems == []
    assert parsed.text.count(name) == 5


def test_smoothing_leaves_a_line_and_takes_half_of_the_noise_away() -> None:
    line = [(float(at), 2.0 * at) for at in range(200)]
    # Windows are centred: only the last half window lags.
    smoothed = [value for _, value in smooth(line)]
    assert smoothed[:190] == pytest.approx([value for _, value in line[:190]])
    noisy = [(float(at), float(at % 2)) for at in range(200)]
    assert all(0.35 < value < 0.65 for _, value in smooth(noisy)[10:-10])


@settings(deadline=None)
@given(curves)
def test_smoothing_stays_within_the_values(points: list[tuple[float, float]]) -> None:
    values = [value for _, value in points]
    for (step, value), (same, _) in zip(smooth(points), points, strict=True):
        assert step == same
        assert min(values) - 1e-3 <= value <= max(values) + 1e-3


@settings(deadline=None)
@given(curves, st.integers(10, 600))
def test_thinning_keeps_the_ends_and_the_extremes(
    points: list[tuple[float, float]], most: int
) -> None:
    kept = thin(points, most)
    assert len(kept) <= most + 4
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    values = [value for _, value in points]
    assert {min(values), max(values)} <= {value for _, value in kept}
