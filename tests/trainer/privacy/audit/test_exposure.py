"""Exposure: by definition, on small and simulated scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.privacy.audit.exposure import (
    UNSEEN_MEAN_BITS,
    exposures,
    measure_exposure,
    ranks,
)
from trainer.privacy.errors import PrivacyError

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@settings(deadline=None)
@given(scores, scores)
def test_exposure_is_the_definition(records: list[int], candidates: list[int]) -> None:
    found = exposures(np.array(records, dtype=float), np.array(candidates, dtype=float))
    for record, bits in zip(records, found, strict=True):
        rank = 1 + sum(candidate >= record for candidate in candidates)
        assert bits == pytest.approx(math.log2(len(candidates) + 1) - math.log2(rank))
        assert 0 <= bits <= math.log2(len(candidates) + 1)


def test_a_memorized_record_has_all_the_bits_there_are() -> None:
    fresh = np.linspace(-1, 1, 1023)
    found = measure_exposure(np.array([5.0, 0.0]), np.array([0.0]), fresh)
    assert found.largest == found.limit == 10
    # Zero of 1,023 at half the error, one-sided.
    assert found.largest_at_least == pytest.approx(-math.log2(1 - 0.025 ** (1 / 1023)))
    assert found.mean == pytest.approx((10 + found.unseen_mean) / 2)


def test_records_like_the_others_have_the_mean_that_is_said() -> None:
    draw = np.random.default_rng(1)
    found = measure_exposure(draw.normal(size=1000), draw.normal(size=1000), draw.normal(size=1000))
    assert found.mean == pytest.approx(UNSEEN_MEAN_BITS, abs=0.2)
    assert found.unseen_mean == pytest.approx(UNSEEN_MEAN_BITS, abs=0.2)
    assert found.mean_interval[0] < found.mean < found.mean_interval[1]
    # Of many unseen records some ranks first; the bound for all together is not fooled.
    assert found.largest > 8
    assert found.largest_at_least < 8


def test_the_bound_on_the_largest_is_seldom_too_high() -> None:
    """Unseen records with known chances: the true exposure of a score s is -log2 P[X >= s]."""
    draw = np.random.default_rng(2)
    wrong = 0
    for _ in range(100):
        records = draw.uniform(size=20)
        true = -np.log2(1 - records)
        found = measure_exposure(records, records, draw.uniform(size=100))
        wrong += found.largest_at_least > true.max()
    assert wrong <= 0.05 * 100


def test_a_model_that_says_the_same_of_everything_exposes_nothing() -> None:
    found = measure_exposure(np.zeros(5), np.zeros(5), np.zeros(100))
    assert (found.mean, found.largest, found.unseen_mean) == (0, 0, 0)
    assert found.largest_at_least == 0
    assert list(ranks(np.zeros(2), np.zeros(100))) == [100, 100]


def test_the_same_scores_give_the_same_intervals() -> None:
    values = np.random.default_rng(3).normal(size=50)
    first = measure_exposure(values, values, values)
    assert first == measure_exposure(values, values, values)
    assert first.to_dict()["candidates"] == 50


@pytest.mark.parametrize("number", [0, 1, 2])
def test_refuses_nothing_and_nan(number: int) -> None:
    good = [np.zeros(2), np.zeros(2), np.zeros(2)]
    for bad in (np.zeros(0), np.array([math.nan])):
        arguments = [*good]
        arguments[number] = bad
        with pytest.raises(PrivacyError):
            measure_exposure(*arguments)
