"""Figures of merit, as pure functions of counts and arrays.

Nothing here knows networks or files. Labels are class numbers 0 to classes - 1; every
function refuses arrays of different lengths and labels out of range, because a figure
computed from misaligned data looks like any other.

Invariants: shares lie in [0, 1]; a figure that is undefined (an F1 of a label that is
neither there nor predicted) is 0.0 and its support says so; results do not depend on
the order of the examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# Two-sided 95% of the standard normal distribution.
_Z_95 = 1.959963984540054
CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How well one label is found; `support` counts its true occurrences."""

    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions whose confidence lies in (low, high]; means are 0.0 if there are none."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def perplexity(loss: float) -> float:
    """Return exp(loss) of a mean loss in nats per token; infinite beyond float's range."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Return a mean loss in nats per token as bits per UTF-8 byte of the text.

    Comparable between tokenizers, which perplexity is not.

    Raises:
        ValueError: `bytes_per_token` is not positive.
    """
    if not bytes_per_token > 0:
        raise ValueError(f"bytes_per_token is {bytes_per_token}; it must be positive")
    return loss / (math.log(2.0) * bytes_per_token)


def confusion_matrix(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """Count pairs: i64[classes, classes], rows true labels, columns predicted ones.

    Raises:
        ValueError: lengths differ, or a label is out of range.
    """
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise ValueError(f"shapes differ: {truth.shape} true and {predicted.shape} predicted")
    for name, values in (("true", truth), ("predicted", predicted)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(f"a {name} label is outside 0..{classes - 1}")
    cells = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Integers) -> float:
    """Return the share of the diagonal; 0.0 of nothing."""
    total = int(confusion.sum())
    return int(np.trace(confusion)) / total if total else 0.0


def label_figures(confusion: Integers) -> list[LabelFigures]:
    """Return precision, recall and F1 of each label."""
    figures = []
    for label in range(len(confusion)):
        hits = int(confusion[label, label])
        support = int(confusion[label].sum())
        predicted = int(confusion[:, label].sum())
        figures.append(figures_of_counts(hits, support, predicted))
    return figures


def figures_of_counts(hits: int, support: int, predicted: int) -> LabelFigures:
    """Return the figures of a label from its counts."""
    return LabelFigures(
        precision=hits / predicted if predicted else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (support + predicted) if support + predicted else 0.0,
        support=support,
        predicted=predicted,
    )


def macro_f1(figures: list[LabelFigures]) -> float:
    """Return the mean F1 of the labels that occur or were predicted."""
    present = [one.f1 for one in figures if one.support or one.predicted]
    return sum(present) / len(present) if present else 0.0


def micro_f1(confusion: Integers) -> float:
    """Return the F1 of all decisions together.

    With one label per example it equals accuracy; it is given by that name because
    tables of results are.
    """
    return accuracy(confusion)


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share (Wilson 1927).

    Unlike the normal approximation it stays inside [0, 1] and holds for small sets.

    Raises:
        ValueError: the counts do not make a share.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no share")
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    z2 = _Z_95 * _Z_95
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    spread = math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    half = _Z_95 * spread / (1 + z2 / total)
    # At the ends one bound is the share itself; rounding must not push it past.
    return max(0.0, min(center - half, share)), min(1.0, max(center + half, share))


def reliability_bins(
    confidence: Floats, correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> list[ReliabilityBin]:
    """Group predictions by confidence into bins of equal width (Guo et al. 2017).

    Args:
        confidence: f64[N], probability of the predicted label.
        correct: bool[N], whether it was right.
        bins: number of bins over [0, 1].

    Raises:
        ValueError: lengths differ or a confidence is no probability.
    """
    if confidence.shape != correct.shape or confidence.ndim != 1:
        raise ValueError(f"shapes differ: {confidence.shape} and {correct.shape}")
    if confidence.size and not (confidence.min() >= 0.0 and confidence.max() <= 1.0):
        raise ValueError("a confidence is outside 0..1")
    # Bins are open below, so that certainty (1.0) falls into the last.
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=confidence, minlength=bins)
    hits = np.bincount(index, weights=correct.astype(np.float64), minlength=bins)
    return [
        ReliabilityBin(
            low=at / bins,
            high=(at + 1) / bins,
            count=int(counts[at]),
            confidence=float(sums[at] / counts[at]) if counts[at] else 0.0,
            accuracy=float(hits[at] / counts[at]) if counts[at] else 0.0,
        )
        for at in range(bins)
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Return the mean distance of confidence and accuracy, weighted by the bins' counts."""
    total = sum(one.count for one in bins)
    if not total:
        return 0.0
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / total


def spearman(first: Floats, second: Floats) -> float:
    """Return Spearman's rank correlation; ties share their mean rank.

    0.0 if either side is constant, where the correlation is undefined.

    Raises:
        ValueError: lengths differ or a value is no number.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"shapes differ: {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a value is no finite number")
    one, two = (_ranks(values) for values in (first, second))
    one, two = one - one.mean() if one.size else one, two - two.mean() if two.size else two
    scale = math.sqrt(float(one @ one) * float(two @ two))
    return max(-1.0, min(1.0, float(one @ two) / scale)) if scale > 0 else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse], dtype=np.float64)
