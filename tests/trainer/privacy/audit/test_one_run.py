"""The lower bound of one run, against mechanisms whose chances can be summed exactly."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.privacy.audit.test_binomial import exact_tail
from trainer.privacy.audit.one_run import bound_epsilon, cut_scores, p_value, refuted_epsilon
from trainer.privacy.errors import PrivacyError


def reference_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The paper's formula, term by term, in fractions."""
    q = Fraction(1 / (1 + math.exp(-epsilon)))
    beta = exact_tail(r, v, q)
    excess = [(exact_tail(r, v - i, q) - beta) / i for i in range(1, v + 1)]
    worst = max(excess, default=Fraction(0))
    return min(1.0, float(beta + 2 * m * Fraction(delta) * worst))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_p_value_is_the_papers_formula(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 30))
    r = data.draw(st.integers(0, m))
    v = data.draw(st.integers(0, r))
    epsilon = data.draw(st.floats(0, 6))
    delta = data.draw(st.sampled_from([0.0, 1e-6, 1e-3, 0.1]))
    expected = reference_p_value(m, r, v, epsilon, delta)
    assert p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_randomized_response_reaches_the_bound(epsilon: float) -> None:
    """Answering every coin by randomized response is epsilon-private, and the worst."""
    m = 7
    q = 1 / (1 + math.exp(-epsilon))
    for v in range(m + 1):
        chance = sum(
            math.prod(q if right else 1 - q for right in rights)
            for rights in product((False, True), repeat=m)
            if sum(rights) >= v
        )
        assert p_value(m, m, v, epsilon, 0.0) == pytest.approx(chance)


@settings(deadline=None)
@given(
    st.integers(2, 12),
    st.floats(0, 4),
    st.sampled_from([1e-4, 1e-2, 0.2]),
    st.data(),
)
def test_a_mechanism_that_sometimes_reveals_everything_stays_within_the_bound(
    m: int, epsilon: float, delta: float, data: st.DataObject
) -> None:
    """Randomized response that shows all coins with chance delta is (epsilon, delta)-private."""
    v = data.draw(st.integers(0, m))
    q = Fraction(1 / (1 + math.exp(-epsilon)))
    share = Fraction(delta)
    chance = (1 - share) * exact_tail(m, v, q) + share
    assert p_value(m, m, v, epsilon, delta) >= float(chance) * (1 - 1e-9)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_an_honest_mechanism_is_refuted_no_more_often_than_allowed(
    epsilon: float, error: float
) -> None:
    r = 100
    q = Fraction(1 / (1 + math.exp(-epsilon)))
    wrong = [v for v in range(r + 1) if refuted_epsilon(r, r, v, 0.0, error) > epsilon + 1e-9]
    chances = (exact_tail(r, v, q) - exact_tail(r, v + 1, q) for v in wrong)
    assert wrong  # else the test could not fail
    assert float(sum(chances)) <= error


def test_two_hundred_perfect_guesses() -> None:
    """All right of r: refuted are the epsilons with q^r < error, a closed form."""
    q = 0.05 ** (1 / 200)
    expected = math.log(q / (1 - q))
    assert refuted_epsilon(200, 200, 200, 0.0, 0.05) == pytest.approx(expected, abs=1e-6)
    # A delta of 1e-5 costs little; one of 0.1 grants everything.
    assert 4.1 < refuted_epsilon(200, 200, 200, 1e-5, 0.05) < expected
    assert refuted_epsilon(200, 200, 200, 0.1, 0.05) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 60), st.sampled_from([0.0, 1e-5]))
def test_more_right_guesses_refute_more(r: int, v: int, delta: float) -> None:
    v = min(v, r - 1)
    less = refuted_epsilon(r, r, v, delta, 0.05)
    assert less <= refuted_epsilon(r, r, v + 1, delta, 0.05) + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 80), st.integers(0, 2**32 - 1))
def test_scores_that_tell_the_coins_prove_the_most(m: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    included = np.arange(m) < m // 2
    draw.shuffle(included)
    bound = bound_epsilon(included + draw.uniform(0, 0.5, m), included, delta=0.0)
    assert all(one.correct == one.guesses for one in bound.attempts)
    expected = refuted_epsilon(m, m, m, 0.0, 0.05 / len(bound.attempts))
    assert bound.epsilon == pytest.approx(expected)


@pytest.mark.parametrize("planted", [80, 100, 120])
def test_unseen_records_say_how_many_are_in(planted: int) -> None:
    """Coins rarely fall half and half; scores that part the two sides are guessed all right."""
    draw = np.random.default_rng(planted)
    included = np.arange(200) < planted
    draw.shuffle(included)
    scores = draw.normal(size=200) + np.where(included, 20.0, 0.0)
    bound = bound_epsilon(scores, included, delta=0.0, unseen=draw.normal(size=500))
    # The best of those left out may beat every unseen record.
    assert bound.attempts[-1].correct >= 198
    # Half and half would be wrong on the difference.
    halves = bound_epsilon(scores, included, delta=0.0)
    assert halves.attempts[-1].correct == 200 - abs(planted - 100)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30), st.lists(st.integers(-3, 3)))
def test_a_cut_leaves_something_on_both_sides(scores: list[int], unseen: list[int]) -> None:
    descending = np.array(sorted(scores, reverse=True), dtype=float)
    assert 1 <= cut_scores(descending, np.array(unseen, dtype=float)) <= len(scores) - 1


def test_scores_that_tell_nothing_prove_nothing() -> None:
    included = np.arange(200) % 2 == 0
    bound = bound_epsilon(np.zeros(200), included, delta=1e-5)
    assert bound.epsilon == 0.0
    assert bound.to_dict()["canaries"] == 200
    # What it could have proven: all 200 right, at a fifth of the error.
    assert bound.ceiling == refuted_epsilon(200, 200, 200, 1e-5, (1 - 0.95) / 5)


def test_a_delta_too_large_for_so_many_canaries_leaves_nothing_to_prove() -> None:
    included = np.arange(200) % 2 == 0
    bound = bound_epsilon(included.astype(float), included, delta=0.00125)
    assert bound.best.correct == bound.best.guesses
    assert bound.epsilon == bound.ceiling < 1.5
    assert bound_epsilon(included.astype(float), included, delta=0.01).ceiling == 0


def test_coins_thrown_after_the_scores_are_bounded_with_the_stated_confidence() -> None:
    """Scores that cannot know the coins: an epsilon above 0 is wrong, and rare."""
    draw = np.random.default_rng(3)
    runs = 200
    wrong = sum(
        bound_epsilon(draw.normal(size=60), draw.random(60) < 0.5, delta=0.0).epsilon > 0
        for _ in range(runs)
    )
    assert wrong <= 0.05 * runs


def test_abstaining_finds_a_few_canaries_that_give_themselves_away() -> None:
    """If only the extremes are known, guessing all would prove less."""
    draw = np.random.default_rng(5)
    included = np.arange(400) % 2 == 0
    scores = draw.normal(size=400)
    scores[:50] += np.where(included[:50], 20.0, -20.0)
    bound = bound_epsilon(scores, included, delta=0.0)
    assert bound.best.guesses == 50
    assert bound.best.correct == 50
    assert bound.epsilon > 2


def test_ties_are_broken_without_the_coins() -> None:
    included = np.array([True, False] * 20)
    bound = bound_epsilon(np.zeros(40), included, delta=0.0, shares=(1.0,))
    assert bound.best.correct == 20


@pytest.mark.parametrize(
    ("scores", "included"),
    [
        (np.zeros(1), np.ones(1, dtype=bool)),
        (np.zeros(4), np.ones(5, dtype=bool)),
        (np.array([0.0, math.nan]), np.array([True, False])),
    ],
    ids=["one-canary", "a-coin-too-many", "score-is-nan"],
)
def test_refuses(scores: np.ndarray, included: np.ndarray) -> None:
    with pytest.raises(PrivacyError):
        bound_epsilon(scores, included, delta=0.0)


@pytest.mark.parametrize(
    "arguments",
    [(5, 6, 1, 1.0, 0.0), (5, 4, 5, 1.0, 0.0), (5, 5, 5, -1.0, 0.0), (5, 5, 5, 1.0, 2.0)],
)
def test_p_value_refuses(arguments: tuple[int, int, int, float, float]) -> None:
    with pytest.raises(ValueError, match=r"guesses|out of range"):
        p_value(*arguments)
