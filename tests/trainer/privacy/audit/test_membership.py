"""Membership inference figures: by definition, and their intervals' coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.privacy.audit.membership import (
    auc,
    mean_interval,
    measure_membership,
    threshold_at,
)
from trainer.privacy.errors import PrivacyError

scores = st.lists(st.integers(-4, 4), min_size=1, max_size=25)


@settings(deadline=None)
@given(scores, scores)
def test_auc_is_the_definition(members: list[int], others: list[int]) -> None:
    won = sum((m > o) + (m == o) / 2 for m in members for o in others)
    found = auc(np.array(members, dtype=float), np.array(others, dtype=float))
    assert found == pytest.approx(won / (len(members) * len(others)))


@settings(deadline=None)
@given(scores, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_no_more_others_are_accused_than_allowed(others: list[int], rate: float) -> None:
    values = np.array(others, dtype=float)
    threshold = threshold_at(values, rate)
    assert (values > threshold).mean() <= rate
    lower = values[values < threshold]
    # It is the lowest such threshold.
    assert not lower.size or (values > lower.max()).mean() > rate


def test_rates_at_one_percent() -> None:
    others = np.arange(200.0)
    members = np.array([197.0, 197.5, 198.5, 300.0])
    found = measure_membership(members, others)
    # Two of 200 may be accused: the threshold is 197.
    assert found.false_positive_rate == 0.01
    assert found.true_positive_rate == 0.75
    assert found.true_positive_interval[0] < 0.75 < found.true_positive_interval[1]
    assert found.to_dict()["tpr_at_1_percent_fpr"] == 0.75


def test_few_others_show_a_wide_interval_of_the_false_positive_rate() -> None:
    found = measure_membership(np.ones(10), np.zeros(10))
    assert (found.auc, found.true_positive_rate, found.false_positive_rate) == (1, 1, 0)
    assert found.false_positive_interval[1] > 0.3
    assert found.auc_interval[0] == pytest.approx(math.exp(-math.log(40) / 10))
    assert found.auc_interval[1] == 1


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(1, 500))
def test_an_interval_holds_its_mean(mean: float, terms: int) -> None:
    low, high = mean_interval(mean, terms, 0.95)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1


def test_intervals_of_the_auc_cover_it() -> None:
    """Two normal distributions a deviation apart: the true area is Phi(1 / sqrt 2)."""
    true = 0.5 * (1 + math.erf(0.5))
    draw = np.random.default_rng(4)
    missed = 0
    for _ in range(150):
        found = measure_membership(draw.normal(1, 1, 30), draw.normal(0, 1, 45))
        low, high = found.auc_interval
        missed += not low <= true <= high
    assert missed <= 0.05 * 150


@pytest.mark.parametrize(
    ("members", "others"),
    [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.nan])],
)
def test_refuses_nothing_and_nan(members: list[float], others: list[float]) -> None:
    with pytest.raises(PrivacyError):
        measure_membership(np.array(members), np.array(others))
