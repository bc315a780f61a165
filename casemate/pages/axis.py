"""Axes: round ticks over a range of values, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from casemate.pages import numbers

# A range of more than this factor is easier to read on a logarithmic axis.
_LOGARITHMIC_FROM = 25.0
_WANTED_TICKS = 5
# Values that differ by less, relative to the largest, differ by rounding only.
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class Axis:
    """A range with ticks; `position` maps a value to 0 (low end) to 1 (high end)."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def position(self, value: float) -> float:
        """Return where a value lies on the axis; outside values stay at the ends."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)


def linear_axis(low: float, high: float, wanted: int = _WANTED_TICKS) -> Axis:
    """Return an axis from tick to tick around a range, with steps of 1, 2 or 5 times 10^n."""
    largest = max(abs(low), abs(high))
    if high - low <= _FLAT * largest or largest == 0:
        spread = largest * 0.1 or 1.0
        low, high = low - spread, high + spread
    step = _round_step((high - low) / wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def steps_axis(first: float, last: float) -> Axis:
    """Return an axis that ends exactly at the last step, with round ticks before it."""
    if not last > first:
        last = first + 1
    step = max(1.0, _round_step((last - first) / _WANTED_TICKS))
    numbers = range(math.ceil(first / step), math.floor(last / step) + 1)
    return Axis(first, last, tuple(number * step for number in numbers))


def value_axis(values: Sequence[float], *, from_zero: bool = False) -> Axis:
    """Return an axis for measured values: logarithmic if they span orders of magnitude."""
    low, high = min(values), max(values)
    if from_zero:
        return linear_axis(min(0.0, low), max(high, 0.0))
    if low > 0 and high / low > _LOGARITHMIC_FROM:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = [10.0**power * lead for power in range(first, last) for lead in (1, 2, 5)]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        return Axis(low, high, _thin(inside), logarithmic=True)
    return linear_axis(low, high)


def tick_text(axis: Axis) -> list[str]:
    """Return the ticks' texts: as many decimals as tell them apart; 20k from 10,000 on."""
    largest = max((abs(tick) for tick in axis.ticks), default=0.0)
    if largest >= 10_000:
        short = [_short(tick) for tick in axis.ticks]
        if len(set(short)) == len(short):
            return short
    if axis.logarithmic or 0 < largest < 1e-3:
        return [f"{tick:.6g}" for tick in axis.ticks]
    gap = min((b - a for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)), default=1.0)
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9))
    return [f"{tick:,.{decimals}f}" for tick in axis.ticks]


def _short(value: float) -> str:
    text = numbers.count(value)
    digits, suffix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + suffix


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    lead = next(lead for lead in (1, 2, 5, 10) if step <= lead * power * (1 + 1e-9))
    return lead * power


def _thin(ticks: tuple[float, ...]) -> tuple[float, ...]:
    every = max(1, math.ceil(len(ticks) / (_WANTED_TICKS + 2)))
    return ticks[::every]
