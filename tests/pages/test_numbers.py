"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.pages import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.4, "999"),
        (999.9, "1.00k"),
        (1_000, "1.00k"),
        (12_345, "12.3k"),
        (803_456, "803k"),
        (999_600, "1.00M"),
        (124_439_808, "124M"),
        (1.5e9, "1.50B"),
        (2.5e13, "25.0T"),
        (math.nan, "nan"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1536, "1.5 KiB"),
        (84_000_000_000, "78.2 GiB"),
        (3e12, "2.7 TiB"),
    ],
)
def test_size(value: float, text: str) -> None:
    assert numbers.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
        (math.inf, "unknown"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (45.4, "0:45"), (766, "12:46"), (3599.6, "1:00:00"), (180_000, "50:00:00")],
)
def test_clock(seconds: float, text: str) -> None:
    assert numbers.clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.63, "1.630"),
        (5.1039, "5.104"),
        (51.0391, "51.04"),
        (0.0123456, "0.0123"),
        (12345.6, "12,346"),
        (3.2e-5, "3.2e-05"),
        (2.5e7, "2.5e+07"),
        (math.inf, "∞"),
        (math.nan, "not a number"),
    ],
)
def test_figure(value: float, text: str) -> None:
    assert numbers.figure(value) == text


def test_percent() -> None:
    assert numbers.percent(0.8834) == "88.3%"
    assert numbers.percent(math.nan) == "unknown"


@settings(deadline=None)
@given(st.floats(min_value=1, max_value=9e14))
def test_count_keeps_three_digits(value: float) -> None:
    text = numbers.count(value)
    unit = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1)
    shown = float(text.rstrip("kMBT")) * unit
    assert shown == pytest.approx(value, rel=0.006, abs=0.5)


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_has_a_text(value: float) -> None:
    for write in (numbers.count, numbers.figure, numbers.percent, numbers.duration, numbers.clock):
        assert write(value)
