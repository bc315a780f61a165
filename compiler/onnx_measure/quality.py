"""The distance of a graph's outputs from those of a reference, for the same inputs.

Similarity correlation is what matters of an embedder, since its users rank by similarity:
the ranks of all pairs of texts are compared, as the STS tasks do with human judgements
(Spearman, The proof and measurement of association between two things, 1904). For a
classifier it is the top label, and accuracy where labels are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compiler.errors import QuantizationError, RuinedError
from compiler.onnx_measure.result import OnnxQuality

Rows = NDArray[np.float32]
_LEAST_NORM = 1e-12


def compare_outputs(
    reference: Rows, candidate: Rows, labels: Sequence[int] | None = None
) -> OnnxQuality:
    """Compare FP32 [texts, width] outputs, row by row.

    Args:
        reference: of the graph that is taken to be right.
        candidate: of the one that is judged.
        labels: the right column for each text, for accuracy.

    Raises:
        RuinedError: the candidate's values are no numbers.
        QuantizationError: shapes that do not fit, no rows, or a reference without numbers.
    """
    if reference.ndim != 2 or reference.shape != candidate.shape or not reference.size:
        raise QuantizationError(
            f"outputs of shape {candidate.shape} cannot be compared with {reference.shape}"
        )
    if labels is not None and len(labels) != len(reference):
        raise QuantizationError(f"{len(labels)} labels are given for {len(reference)} texts")
    if not np.isfinite(reference).all():
        raise QuantizationError("the reference gives values that are no finite numbers")
    if not np.isfinite(candidate).all():
        raise RuinedError("the candidate gives values that are no finite numbers")
    right = reference.astype(np.float64)
    found = candidate.astype(np.float64)
    cosines = np.sum(_unit(right) * _unit(found), axis=1)
    best = right.argmax(axis=1)
    return OnnxQuality(
        rows=len(right),
        max_abs=float(np.abs(right - found).max()),
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        similarity_spearman=_agreement(similarities(right), similarities(found)),
        top1=float((best == found.argmax(axis=1)).mean()),
        kl_mean=_divergence(right, found),
        accuracy=_accuracy(found, labels),
        reference_accuracy=_accuracy(right, labels),
    )


def similarities(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine similarity of every pair of rows, each pair once."""
    unit = _unit(rows)
    products: NDArray[np.float64] = unit @ unit.T
    return products[np.triu_indices(len(rows), 1)]


def _agreement(right: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return Spearman's correlation; -1 where the candidate alone holds all pairs to be alike.

    It ranks nothing any more, which is as bad as it gets; nan is for references that do not.
    """
    flat = len(found) > 1 and float(np.ptp(found)) == 0.0 and float(np.ptp(right)) > 0.0
    return -1.0 if flat else spearman(right, found)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, ties ranked by their mean; nan where undefined."""
    if len(first) < 2:
        return float("nan")
    ranks = [_ranks(values) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / scale) if scale else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: NDArray[np.float64] = (last - (counts - 1) / 2).astype(np.float64)
    return middle[places]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.maximum(norms, _LEAST_NORM)
    return unit


def _divergence(right: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    logs = [_log_softmax(rows) for rows in (right, found)]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = rows - rows.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _accuracy(rows: NDArray[np.float64], labels: Sequence[int] | None) -> float | None:
    if labels is None:
        return None
    return float((rows.argmax(axis=1) == np.asarray(labels)).mean())
