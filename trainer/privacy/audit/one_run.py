"""A lower bound on epsilon out of one training run.

Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run" (2023). Each of
m canaries is put into the data or left out by a fair, secret coin. The auditor looks at
the model and guesses some of the coins, abstaining on the rest. If training is
(epsilon, delta)-differentially private for one record more or less, the paper's main
theorem (computed as in its appendix D) bounds the chance of v or more right guesses
among r:

    beta(v) + 2 m delta max_{1 <= i <= v} P[v > B >= v - i] / i,
    B ~ Binomial(r, q),  q = 1 / (1 + e^-epsilon),  beta(v) = P[B >= v]

So many right guesses refute the claim. How many guesses to make must not be chosen after
the fact: several numbers fixed beforehand are tried, each at a share of the error
(Bonferroni), and the best bound counts.

Invariants: a bound holds with the stated confidence over the coins and the training,
whatever the scores are, as long as they come from the model and not from the coins; ties
are broken by position, which knows nothing of the coins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.privacy.audit.binomial import probabilities
from trainer.privacy.errors import PrivacyError

# Shares of the canaries that are guessed: those with the highest and the lowest scores.
GUESSED_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
_HALVINGS = 50
# A bound never gets here: it would take e^100 canaries.
_LARGEST_EPSILON = 128.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One number of guesses: how many, how many were right, and the epsilon they refute."""

    guesses: int
    correct: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class OneRunBound:
    """What the guesses prove.

    Attributes:
        epsilon: training is not (x, delta)-private for any x below this; 0 proves nothing.
        ceiling: what the same canaries would have proven with every guess right. A claim
            above it could not have been contradicted: there are too few canaries, or too
            many for this delta (2 m delta must stay far below the allowed error).
        delta: the delta that was granted.
        confidence: of the statement, all attempts together.
        canaries: coins that were thrown.
        attempts: the numbers of guesses that were tried.
    """

    epsilon: float
    ceiling: float
    delta: float
    confidence: float
    canaries: int
    attempts: tuple[Attempt, ...]

    @property
    def best(self) -> Attempt:
        """The attempt that the bound comes from."""
        return max(self.attempts, key=lambda each: each.epsilon)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "epsilon": self.epsilon,
            "ceiling": self.ceiling,
            "delta": self.delta,
            "confidence": self.confidence,
            "canaries": self.canaries,
            "guesses": self.best.guesses,
            "correct": self.best.correct,
            "attempts": [
                {"guesses": one.guesses, "correct": one.correct, "epsilon": one.epsilon}
                for one in self.attempts
            ],
        }


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return how likely so many right guesses are at most, under (epsilon, delta).

    Args:
        canaries: m, the coins thrown.
        guesses: r, those guessed.
        correct: v, those guessed right.
        epsilon: 0 or more.
        delta: in [0, 1].

    Raises:
        ValueError: an argument outside its range.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"not 0 <= {correct} right <= {guesses} guesses <= {canaries} canaries")
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"epsilon {epsilon} or delta {delta} is out of range")
    log_right = -math.log1p(math.exp(-epsilon))
    chances = probabilities(guesses, log_right, log_right - epsilon)
    beta = float(chances[correct:].sum())
    if delta == 0 or correct == 0:
        return min(beta, 1.0)
    # P[v > B >= v - i] for i = 1 ... v: sums of the terms just below v, downwards.
    below = np.cumsum(chances[:correct][::-1])
    alpha = float((below / np.arange(1, correct + 1)).max())
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def refuted_epsilon(canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """Return the largest epsilon found that these guesses refute, 0 if there is none.

    An (epsilon, delta)-private algorithm is (x, delta)-private for every larger x, so
    refuting one epsilon refutes all below it.

    Args:
        canaries: m.
        guesses: r.
        correct: v.
        delta: granted.
        error: chance of a wrong refutation, in (0, 1).
    """
    low, high = 0.0, 1.0
    if p_value(canaries, guesses, correct, low, delta) >= error:
        return 0.0
    while high < _LARGEST_EPSILON and p_value(canaries, guesses, correct, high, delta) < error:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) < error:
            low = middle
        else:
            high = middle
    return low


def bound_epsilon(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    delta: float,
    confidence: float = 0.95,
    unseen: NDArray[np.float64] | None = None,
    shares: Sequence[float] = GUESSED_SHARES,
) -> OneRunBound:
    """Guess coins by scores, and return what that proves.

    Args:
        scores: f64[m], higher where the model knows a canary better.
        included: bool[m], the coins.
        delta: granted to the claim, in [0, 1).
        confidence: of the bound, in (0, 1).
        unseen: f64[M], scores of like records that nobody trained on; they say which scores
            are high. None guesses as many "in" as "out".
        shares: of the canaries to guess, fixed before anybody saw the scores.

    Raises:
        PrivacyError: fewer than two canaries, arrays of different lengths, or scores that
            are no numbers.
    """
    total = scores.size
    if total < 2 or scores.shape != included.shape:
        raise PrivacyError(
            f"an audit needs two canaries or more with a score each; there are {included.size} "
            f"coins and {total} scores"
        )
    if not np.isfinite(scores).all():
        raise PrivacyError("a canary's score is no number: the model's weights are damaged")
    order = np.argsort(-scores, kind="stable")
    cut = cut_scores(scores[order], np.empty(0) if unseen is None else unseen)
    error = (1 - confidence) / len(shares)
    attempts = []
    ceiling = 0.0
    for share in shares:
        # As many "in" among the guesses as the scores say there are among all.
        put_in = max(1, round(share * cut))
        left_out = max(1, round(share * (total - cut)))
        correct = int(included[order[:put_in]].sum() + (~included[order[-left_out:]]).sum())
        guesses = put_in + left_out
        epsilon = refuted_epsilon(total, guesses, correct, delta, error)
        attempts.append(Attempt(guesses, correct, epsilon))
        ceiling = max(ceiling, refuted_epsilon(total, guesses, guesses, delta, error))
    best = max(one.epsilon for one in attempts)
    return OneRunBound(best, ceiling, delta, confidence, total, tuple(attempts))


def cut_scores(descending: NDArray[np.float64], unseen: NDArray[np.float64]) -> int:
    """Return how many canaries are probably in, seeing no coin.

    The cut at which the share of canaries above is furthest beyond the share of unseen
    records above: half of the canaries are unseen too, so that is where members and others
    part best (the Kolmogorov-Smirnov statistic's place).

    Args:
        descending: f64[m], the canaries' scores, two or more.
        unseen: f64[M], scores of like records that nobody trained on; empty for a half.

    Returns:
        A number from 1 to m - 1.
    """
    total = descending.size
    if not unseen.size:
        return total // 2
    counts = np.arange(1, total)
    as_high = unseen.size - np.searchsorted(np.sort(unseen), descending[:-1], side="left")
    lead = counts / total - as_high / unseen.size
    # Of equals (scores that tell nothing) the fairest.
    best = counts[lead >= lead.max() - 1e-12]
    return int(best[np.abs(best - total // 2).argmin()])
