"""Tests of distributions that raise no false alarm: rarer than once in 1e9 runs of the suite.

The coins are secret and differ in every run, so a threshold that is crossed now and then
would be a flake. Sample sizes are fixed, and each test alone errs with 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

FALSE_ALARM = 1e-12


def fits_counts(observed: Sequence[int] | npt.NDArray[Any], expected: Sequence[float]) -> bool:
    """Pearson's chi-square test; every expected count must be large."""
    wanted = np.asarray(expected, dtype=np.float64)
    assert wanted.min() > 200
    assert np.isclose(wanted.sum(), np.sum(observed), rtol=1e-9)
    return float(stats.chisquare(observed, wanted, sum_check=False).pvalue) > FALSE_ALARM


def fits_variance(values: npt.NDArray[Any], deviation: float) -> bool:
    """The two-sided chi-square test of the variance of normal values of mean 0."""
    squares = float(np.sum((np.asarray(values, dtype=np.float64) / deviation) ** 2))
    law = stats.chi2(values.size)
    return bool(min(law.cdf(squares), law.sf(squares)) > FALSE_ALARM)


def fits_chance(hits: int, tries: int, chance: float) -> bool:
    """The exact two-sided binomial test."""
    return float(stats.binomtest(hits, tries, chance).pvalue) > FALSE_ALARM


def fits_normal(values: npt.NDArray[Any], deviation: float) -> bool:
    """The Kolmogorov-Smirnov test against a normal distribution of mean 0."""
    return float(stats.kstest(values, stats.norm(0, deviation).cdf).pvalue) > FALSE_ALARM


def uncorrelated(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    """Whether two columns of independent values of mean 0 and variance 1 have a like product.

    The sum of n products is normal with variance n for large n.
    """
    score = float(np.sum(first * second)) / np.sqrt(first.size)
    return 2 * float(stats.norm.sf(abs(score))) > FALSE_ALARM


def normal_tail(beyond: float) -> float:
    """The chance that a standard normal value is larger."""
    return math.erfc(beyond / math.sqrt(2)) / 2


def binomial(size: int, tries: int, chance: float) -> float:
    """The chance of so many hits."""
    return math.comb(tries, size) * chance**size * (1 - chance) ** (tries - size)
