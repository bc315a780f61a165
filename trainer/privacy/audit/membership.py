"""Membership inference: can records that were trained on be told from others?

The attack ranks records by how well the model knows them (Yeom et al. 2018), calibrated
by a reference model where there is one. Carlini et al., "Membership inference attacks
from first principles" (2022) say what to report: not the average, but the share of members
that are found while few others are accused: the true-positive rate at 1% false positives.

Intervals hold for finite samples without assuming a distribution: Clopper-Pearson for
rates; for the area under the curve, a two-sample U-statistic, the Chernoff bound of
Hoeffding (1963, section 5) with min(members, others) independent terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.privacy.audit.binomial import clopper_pearson
from trainer.privacy.errors import PrivacyError

Floats = NDArray[np.float64]

FALSE_POSITIVE_RATE = 0.01
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Membership:
    """How well members can be told.

    Attributes:
        auc: chance that a member scores above another record, ties half; 0.5 is nothing.
        auc_interval: of it.
        true_positive_rate: share of the members above the threshold.
        true_positive_interval: of it.
        false_positive_rate: share of the others above the threshold, at most what was
            allowed.
        false_positive_interval: of it; wide where there are few others.
        members: records that were trained on.
        others: records that were not.
        confidence: of each interval.
    """

    auc: float
    auc_interval: tuple[float, float]
    true_positive_rate: float
    true_positive_interval: tuple[float, float]
    false_positive_rate: float
    false_positive_interval: tuple[float, float]
    members: int
    others: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "auc": self.auc,
            "auc_interval": list(self.auc_interval),
            "tpr_at_1_percent_fpr": self.true_positive_rate,
            "tpr_interval": list(self.true_positive_interval),
            "fpr": self.false_positive_rate,
            "fpr_interval": list(self.false_positive_interval),
            "members": self.members,
            "nonmembers": self.others,
            "confidence": self.confidence,
        }


def measure_membership(members: Floats, others: Floats, *, confidence: float = 0.95) -> Membership:
    """Return how well members can be told from others by their scores.

    Args:
        members: f64[N], higher where the model knows a record better.
        others: f64[M].
        confidence: of each interval, in (0, 1).

    Raises:
        PrivacyError: one of them is empty, or a score is no number.
    """
    if not members.size or not others.size:
        raise PrivacyError("membership inference needs members and others, one of each at least")
    if np.isnan(members).any() or np.isnan(others).any():
        raise PrivacyError("a record's score is no number: the model's weights are damaged")
    area = auc(members, others)
    threshold = threshold_at(others, FALSE_POSITIVE_RATE)
    found = int((members > threshold).sum())
    accused = int((others > threshold).sum())
    return Membership(
        auc=area,
        auc_interval=mean_interval(area, min(members.size, others.size), confidence),
        true_positive_rate=found / members.size,
        true_positive_interval=clopper_pearson(found, members.size, confidence),
        false_positive_rate=accused / others.size,
        false_positive_interval=clopper_pearson(accused, others.size, confidence),
        members=members.size,
        others=others.size,
        confidence=confidence,
    )


def auc(members: Floats, others: Floats) -> float:
    """Return the area under the ROC curve: P[member > other] + P[member = other] / 2."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    upto = np.searchsorted(ordered, members, side="right")
    return float((below + upto).sum(dtype=np.float64) / (2.0 * members.size * others.size))


def threshold_at(others: Floats, rate: float) -> float:
    """Return the lowest threshold that at most a share `rate` of the others exceeds."""
    allowed = math.floor(rate * others.size)
    return float(np.sort(others)[::-1][allowed]) if allowed < others.size else -math.inf


def mean_interval(mean: float, terms: int, confidence: float) -> tuple[float, float]:
    """Return the Chernoff-Hoeffding interval of a mean of values in [0, 1].

    It holds every true mean x with terms * KL(mean || x) <= ln(2 / (1 - confidence)), and
    is right also for U-statistics that are averages of such means (Hoeffding 1963, 5b).

    Args:
        mean: observed, in [0, 1].
        terms: independent values that it is a mean of.
        confidence: in (0, 1).
    """
    allowed = math.log(2 / (1 - confidence)) / terms
    return (
        1.0 - _furthest(1.0 - mean, allowed),
        _furthest(mean, allowed),
    )


def _furthest(mean: float, allowed: float) -> float:
    """Return the largest x in [mean, 1] with KL(mean || x) <= allowed."""
    low, high = mean, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _divergence(mean, middle) <= allowed:
            low = middle
        else:
            high = middle
    return high


def _divergence(mean: float, other: float) -> float:
    """Return the Kullback-Leibler divergence of two coins, in nats."""
    total = 0.0
    for left, right in ((mean, other), (1.0 - mean, 1.0 - other)):
        if left > 0:
            total += left * math.log(left / right) if right > 0 else math.inf
    return total
