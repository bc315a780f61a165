"""Binomial probabilities and the exact interval of a share, as pure functions.

Sums run over positive terms in float64, so tails are right to about 1e-9 relative for up
to a million trials. Chances come as a pair of logarithms, because the audit asks for
chances so near 1 that 1 - p would be lost.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Halvings of an interval: more than a float64 in [0, 1] can show.
_HALVINGS = 64


@functools.lru_cache(maxsize=32)
def _log_choose(trials: int) -> Floats:
    """Return the logarithms of the binomial coefficients of `trials`, f64[trials + 1]."""
    factorials = np.array([math.lgamma(count + 1) for count in range(trials + 1)])
    coefficients: Floats = factorials[-1] - factorials - factorials[::-1]
    coefficients.setflags(write=False)
    return coefficients


def probabilities(trials: int, log_success: float, log_failure: float) -> Floats:
    """Return P[X = k] for k = 0 ... trials, f64[trials + 1].

    Args:
        trials: independent trials, 0 or more.
        log_success: logarithm of the chance of success, at most 0; may be -inf.
        log_failure: logarithm of one minus that chance; may be -inf.
    """
    successes = np.arange(trials + 1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        # 0 * -inf is no number; where nothing happens, its chance does not matter.
        won = np.where(successes > 0, successes * log_success, 0.0)
        lost = np.where(successes < trials, successes[::-1] * log_failure, 0.0)
    return np.exp(_log_choose(trials) + won + lost)


def tail(trials: int, successes: int, chance: float) -> float:
    """Return P[X >= successes] for X ~ Binomial(trials, chance)."""
    log_success = math.log(chance) if chance > 0 else -math.inf
    log_failure = math.log1p(-chance) if chance < 1 else -math.inf
    return float(min(probabilities(trials, log_success, log_failure)[successes:].sum(), 1.0))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share (Clopper and Pearson, 1934).

    It holds the true chance with at least `confidence`, whatever that chance is.

    Raises:
        ValueError: not 0 <= successes <= trials with one trial or more, or a confidence
            outside (0, 1).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials are no counts")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    error = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _chance_of_tail(trials, successes, error)
    # P[X <= s] = error is P[X >= s + 1] = 1 - error; mirrored, so that it stays a small tail.
    failures = trials - successes
    high = 1.0 if failures == 0 else 1.0 - _chance_of_tail(trials, failures, error)
    return low, high


def _chance_of_tail(trials: int, successes: int, wanted: float) -> float:
    """Return the largest chance found with P[X >= successes] at most `wanted`."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if tail(trials, successes, middle) <= wanted:
            low = middle
        else:
            high = middle
    return low
