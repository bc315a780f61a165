"""Exposure: how far planted records stand out from like ones that the model never saw.

Carlini, Liu, Erlingsson, Kos and Song, "The secret sharer" (2019). The exposure of a
record is log2 of how many candidates there are minus log2 of its rank among them by how
well the model knows them: -log2 of the share of candidates that it knows as well or
better. The share is estimated from a sample (the paper's section 4.3), with an exact
interval; n candidates can show log2(n + 1) bits at most. A record that the model never
saw has 1.44 bits on average (1 / ln 2), whatever the model is.

Ties count against the record, so a model that says the same of everything exposes nothing.
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

# Mean exposure of a record that is a candidate like the others: E[-log2 U], U uniform.
UNSEEN_MEAN_BITS = 1 / math.log(2)
_RESAMPLES = 2000
_SEED = 20190812


@dataclass(frozen=True, slots=True)
class Exposure:
    """Exposures of the planted records, in bits.

    Attributes:
        mean: of the included records.
        mean_interval: of that mean over the choice of records, by bootstrap.
        largest: of the included records.
        largest_at_least: with this confidence for all records together, some record has
            an exposure of so much or more.
        unseen_mean: of the records that were left out, measured the same way.
        limit: the most that so many candidates can show.
        candidates: fresh records that were ranked against.
        confidence: of the intervals.
    """

    mean: float
    mean_interval: tuple[float, float]
    largest: float
    largest_at_least: float
    unseen_mean: float
    limit: float
    candidates: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "mean_bits": self.mean,
            "mean_interval": list(self.mean_interval),
            "max_bits": self.largest,
            "max_at_least": self.largest_at_least,
            "unseen_mean_bits": self.unseen_mean,
            "limit_bits": self.limit,
            "candidates": self.candidates,
            "confidence": self.confidence,
        }


def ranks(scores: Floats, candidates: Floats) -> NDArray[np.int64]:
    """Return how many candidates score as high as each record or higher, i64[N].

    Args:
        scores: f64[N] of the records, higher where the model knows a record better.
        candidates: f64[M] of like records that were never seen.
    """
    ordered = np.sort(candidates)
    above: NDArray[np.int64] = candidates.size - np.searchsorted(ordered, scores, side="left")
    return above


def exposures(scores: Floats, candidates: Floats) -> Floats:
    """Return the exposure of each record in bits, f64[N], in [0, log2(M + 1)]."""
    bits: Floats = math.log2(candidates.size + 1) - np.log2(ranks(scores, candidates) + 1.0)
    return bits


def measure_exposure(
    included: Floats, left_out: Floats, candidates: Floats, *, confidence: float = 0.95
) -> Exposure:
    """Return the exposure of planted records.

    Args:
        included: f64[N], scores of the records that were trained on.
        left_out: f64[K], scores of those that were not.
        candidates: f64[M], scores of fresh records of the same distribution.
        confidence: of the intervals, in (0, 1).

    Raises:
        PrivacyError: nothing to measure, or scores that are no numbers.
    """
    if not included.size or not left_out.size or not candidates.size:
        raise PrivacyError("exposure needs records that were planted, left out, and fresh ones")
    if any(np.isnan(each).any() for each in (included, left_out, candidates)):
        raise PrivacyError("a record's score is no number: the model's weights are damaged")
    bits = exposures(included, candidates)
    # The largest of N: each interval at an N-th of the error.
    each_confidence = 1 - 2 * (1 - confidence) / included.size
    best = int(ranks(included, candidates).min())
    _, share = clopper_pearson(best, candidates.size, each_confidence)
    return Exposure(
        mean=float(bits.mean()),
        mean_interval=bootstrap_mean(bits, confidence),
        largest=float(bits.max()),
        largest_at_least=-math.log2(share),
        unseen_mean=float(exposures(left_out, candidates).mean()),
        limit=math.log2(candidates.size + 1),
        candidates=candidates.size,
        confidence=confidence,
    )


def bootstrap_mean(values: Floats, confidence: float) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean (Efron, 1979); the same every time."""
    draw = np.random.Generator(np.random.Philox(_SEED))
    picked = draw.integers(0, values.size, (_RESAMPLES, values.size))
    edge = (1 - confidence) / 2
    low, high = np.quantile(values[picked].mean(axis=1), (edge, 1 - edge))
    return float(low), float(high)
