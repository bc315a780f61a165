"""The discrete Gaussian distribution: its probabilities, and coins that are exact."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.privacy.statistics import fits_counts, fits_normal, fits_variance
from trainer.privacy import discrete
from trainer.privacy.discrete import discrete_gaussian, is_below_exp
from trainer.privacy.errors import PrivacyError
from trainer.privacy.randomness import SecretGenerator


def expected_counts(count: int, deviation: float, reach: int) -> list[float]:
    """Counts of -reach .. reach, the ends holding what lies beyond."""
    wide = range(-60 - 20 * math.ceil(deviation), 61 + 20 * math.ceil(deviation))
    weights = {x: math.exp(-(x**2) / (2 * deviation**2)) for x in wide}
    total = math.fsum(weights.values())
    bins = [0.0] * (2 * reach + 1)
    for x, weight in weights.items():
        bins[max(-reach, min(reach, x)) + reach] += count * weight / total
    return bins


def observed_counts(values: npt.NDArray[Any], reach: int) -> npt.NDArray[Any]:
    return np.bincount(np.clip(values, -reach, reach) + reach, minlength=2 * reach + 1)


@pytest.mark.parametrize(
    ("deviation", "reach"), [(0.5, 1), (1.0, 3), (1.3, 3), (2.75, 7), (10.0, 25)]
)
def test_probabilities(deviation: float, reach: int) -> None:
    values = discrete_gaussian(SecretGenerator(), 200_000, deviation)
    assert values.dtype == np.int64
    assert fits_counts(observed_counts(values, reach), expected_counts(200_000, deviation, reach))


@pytest.mark.parametrize("deviation", [300.5, 2.0**21 + 0.3, 2.0**40])
def test_wide_ones_are_close_to_normal(deviation: float) -> None:
    values = discrete_gaussian(SecretGenerator(), 100_000, deviation)
    assert fits_variance(values, deviation)
    if deviation > 1e6:
        # Finer than 1e5 values can tell from a continuous law.
        assert fits_normal(values, deviation)


def test_the_exact_way_gives_the_same_probabilities(monkeypatch) -> None:
    """Every coin is tossed with rational numbers, none in float64."""
    monkeypatch.setattr(discrete, "_MARGIN", 2.0**70)
    values = discrete_gaussian(SecretGenerator(), 6_000, 1.3)
    assert fits_counts(observed_counts(values, 2), expected_counts(6_000, 1.3, 2))


@settings(max_examples=60, deadline=None)
@given(
    numerator=st.integers(0, 10**30),
    denominator=st.integers(10**28, 10**30),
    distance=st.integers(-(10**6), 10**6),
)
def test_float64_and_exact_coins_agree_outside_the_margin(
    numerator: int, denominator: int, distance: int
) -> None:
    exponent = Fraction(numerator, denominator)
    near = int(math.exp(-float(exponent)) * 2**64)
    for offset in (distance, int(2 * discrete._MARGIN), -int(2 * discrete._MARGIN)):
        word = near + offset
        if 0 <= word < 2**64 and abs(offset) >= discrete._MARGIN:
            assert is_below_exp(SecretGenerator(), word, exponent) == (offset < 0)


def test_bits_are_drawn_until_they_decide(monkeypatch) -> None:
    """exp(-1), to 192 bits: the first 64 do not decide, nor the next."""
    one_over_e = (
        0x5E2D58D8B3BCDF1ABADEC7829054F90DDA9805AAB56C7733,
        192,
    )
    first, second, third = (
        one_over_e[0] >> 128,
        (one_over_e[0] >> 64) & (2**64 - 1),
        one_over_e[0] & (2**64 - 1),
    )
    for last, below in ((third - 1, True), (third + 1, False)):
        generator = SecretGenerator()
        words = iter([second, last])
        monkeypatch.setattr(
            generator, "words", lambda _, words=words: np.array([next(words)], dtype=np.uint64)
        )
        assert is_below_exp(generator, first, Fraction(1)) is below
        assert next(words, None) is None


def test_chances_of_one_and_of_next_to_nothing() -> None:
    generator = SecretGenerator()
    assert is_below_exp(generator, 2**64 - 1, Fraction(0))
    assert not is_below_exp(generator, 0, Fraction(2000))
    assert not is_below_exp(generator, 1, Fraction(50))


@pytest.mark.parametrize("deviation", [0.0, -1.0, 0.01, 2.0**41, math.nan, math.inf])
def test_deviations_that_cannot_be_drawn(deviation: float) -> None:
    with pytest.raises(PrivacyError, match="grid steps"):
        discrete_gaussian(SecretGenerator(), 10, deviation)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_count(count: int) -> None:
    assert discrete_gaussian(SecretGenerator(), count, 3.0).shape == (count,)
