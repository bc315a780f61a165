"""What is measured of a graph: its speed by shape, and its distance from a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[np.generic]]
"""The inputs of one run of a graph, by name."""


@dataclass(frozen=True, slots=True)
class CaseSpeed:
    """Texts per second at one shape.

    Attributes:
        batch, length: of the inputs, in texts and tokens.
        median, low, high: texts/s of the median, slowest and fastest round.
    """

    batch: int
    length: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OnnxSpeed:
    """What `measure_onnx_speed` saw.

    Attributes:
        cases: one for each shape asked for, in that order.
        threads: of the session.
        load_seconds: from the file to a session that is ready.
        peak_mib: the process's peak resident memory, everything included.
        file_bytes: size of the file.
    """

    cases: tuple[CaseSpeed, ...]
    threads: int
    load_seconds: float
    peak_mib: float
    file_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "cases": [asdict(case) for case in self.cases]}


@dataclass(frozen=True, slots=True)
class OnnxQuality:
    """How far outputs FP32 [texts, width] are from a reference's, for the same texts.

    Attributes:
        rows: texts compared.
        max_abs: largest absolute difference of an element.
        cosine_mean, cosine_min: of each text's vector with the reference's.
        similarity_spearman: rank correlation of the cosine similarities of all pairs of
            texts, within the candidate against within the reference; nan for under 3 texts
            or where all of the reference's are equal, -1 where only the candidate's are.
        top1: share of texts whose largest element is the same one.
        kl_mean: mean Kullback-Leibler divergence of softmax(reference) from
            softmax(candidate), in nats; meaningful for logits only.
        accuracy, reference_accuracy: shares of texts whose largest element is the
            label's, in 0..1; None without labels.
    """

    rows: int
    max_abs: float
    cosine_mean: float
    cosine_min: float
    similarity_spearman: float
    top1: float
    kl_mean: float
    accuracy: float | None = None
    reference_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)
