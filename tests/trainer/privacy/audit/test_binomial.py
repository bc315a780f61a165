"""Binomial tails and intervals, against sums of fractions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.privacy.audit.binomial import clopper_pearson, tail


def exact_tail(trials: int, successes: int, chance: Fraction) -> Fraction:
    """P[X >= successes], summed without rounding."""
    return sum(
        (
            comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
            for k in range(successes, trials + 1)
        ),
        Fraction(0),
    )


@settings(deadline=None)
@given(st.data())
def test_tail_is_the_exact_sum(data: st.DataObject) -> None:
    trials = data.draw(st.integers(0, 40))
    successes = data.draw(st.integers(0, trials))
    chance = Fraction(data.draw(st.integers(0, 32)), 32)
    expected = float(exact_tail(trials, successes, chance))
    assert tail(trials, successes, float(chance)) == pytest.approx(expected, rel=1e-10, abs=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.integers(1, 31), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_holds_the_true_chance_often_enough(
    trials: int, numerator: int, confidence: float
) -> None:
    chance = Fraction(numerator, 32)
    missed = Fraction(0)
    for successes in range(trials + 1):
        low, high = clopper_pearson(successes, trials, confidence)
        if not low <= float(chance) <= high:
            missed += (
                comb(trials, successes) * chance**successes * (1 - chance) ** (trials - successes)
            )
    assert float(missed) <= 1 - confidence + 1e-12


def test_known_intervals() -> None:
    # The ends have a closed form where nothing or everything succeeds.
    edge = 0.025 ** (1 / 20)
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 1 - edge))
    assert clopper_pearson(20, 20) == pytest.approx((edge, 1.0))
    # Clopper and Pearson's own kind of table: 5 of 10.
    assert clopper_pearson(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"),
    [(0, 0, 0.95), (-1, 3, 0.95), (4, 3, 0.95), (1, 3, 0.0), (1, 3, 1.0)],
)
def test_refuses_what_are_no_counts(successes: int, trials: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"no counts|not between"):
        clopper_pearson(successes, trials, confidence)


def test_tails_of_many_trials_stay_exact() -> None:
    # The median of a fair coin: P[X >= n/2 + 1] = (1 - P[X = n/2]) / 2.
    trials = 100_000
    middle = float(Fraction(comb(trials, trials // 2), 2**trials))
    assert tail(trials, trials // 2 + 1, 0.5) == pytest.approx((1 - middle) / 2, rel=1e-8)
