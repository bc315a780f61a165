"""What calibration inputs say of activations: their ranges, and their second moments.

The graph is run as it is, its activations added to its outputs, one batch at a time; nothing
of a batch is kept but minimum and maximum, a histogram, or the sum of x x^T. Padding (where
`attention_mask` is 0) is left out where an activation has a row for each token.

Percentile and entropy: Migacz, 8-bit Inference with TensorRT, GTC 2017. A range is cut
where the distribution that it leaves, in 256 levels, differs least (Kullback-Leibler) from
the one with the cut values moved to the ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from compiler.errors import QuantizationError
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.session import open_model, run_session
from compiler.onnx_quantize.plan import ENTROPY, MIN_MAX, OnnxPlan

_BINS = 2048
_LEVELS = 256
_CUTS = 64
_MASK = "attention_mask"

Range = tuple[float, float]


class Activations:
    """Runs a graph on calibration inputs and hands out activations.

    Args:
        model: a graph; unchanged afterwards.
        names: the values wanted, each FP32.
        feeds: the calibration inputs, at least one run.

    Raises:
        QuantizationError: no inputs, or the graph cannot be run on them.
    """

    def __init__(self, model: ModelProto, names: Sequence[str], feeds: Sequence[Feeds]) -> None:
        if not feeds:
            raise QuantizationError("this plan needs calibration inputs, and there are none")
        self._names = sorted(set(names))
        self._feeds = feeds
        outputs = model.graph.output
        before = len(outputs)
        present = {value.name for value in outputs}
        for name in self._names:
            if name not in present:
                outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        try:
            self._session = open_model(model)
        finally:
            del outputs[before:]

    def batches(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield each run's activations, FP32 [rows, width], without padding."""
        for feeds in self._feeds:
            outputs = run_session(self._session, feeds, self._names)
            mask = feeds.get(_MASK)
            yield {
                name: _rows(np.asarray(output, np.float32), mask)
                for name, output in zip(self._names, outputs, strict=True)
            }


def _rows(array: NDArray[np.float32], mask: NDArray[np.generic] | None) -> NDArray[np.float32]:
    if mask is not None and array.ndim == 3 and array.shape[:2] == mask.shape:
        kept: NDArray[np.float32] = array[mask.astype(bool)]
        return kept
    return array.reshape(-1, array.shape[-1])


def find_ranges(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Feeds], plan: OnnxPlan
) -> dict[str, Range]:
    """Return the range that each activation is to be quantized over, by the plan's method.

    Raises:
        QuantizationError: as `Activations`, or an activation that is no finite number.
    """
    activations = Activations(model, names, feeds)
    ranges: dict[str, Range] = {}
    for batch in activations.batches():
        for name, rows in batch.items():
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, float(rows.min())), max(high, float(rows.max())))
    if not np.isfinite(list(ranges.values())).all():
        raise QuantizationError("the graph gives values that are no finite numbers")
    if plan.calibration == MIN_MAX:
        return ranges
    counts = {name: np.zeros(_BINS, np.int64) for name in ranges}
    for batch in activations.batches():
        for name, rows in batch.items():
            counts[name] += np.histogram(rows, _BINS, range=ranges[name])[0]
    if plan.calibration == ENTROPY:
        return {name: entropy_range(counts[name], ranges[name]) for name in ranges}
    return {name: percentile_range(counts[name], ranges[name], plan.percentile) for name in ranges}


def percentile_range(counts: NDArray[np.int64], span: Range, percent: float) -> Range:
    """Return the range that holds `percent` of the values, as much cut at either end."""
    edges = np.linspace(*span, len(counts) + 1)
    share = np.cumsum(counts) / max(int(counts.sum()), 1)
    cut = (100.0 - percent) / 200.0
    low = edges[int(np.searchsorted(share, cut, side="right"))]
    high = edges[min(int(np.searchsorted(share, 1.0 - cut)) + 1, len(counts))]
    return float(low), float(high)


def entropy_range(counts: NDArray[np.int64], span: Range) -> Range:
    """Return the range whose 256 levels lose the least information."""
    edges = np.linspace(*span, len(counts) + 1)
    largest = max(abs(span[0]), abs(span[1]))
    best, found = np.inf, span
    for limit in np.linspace(largest / 8, largest, _CUTS):
        start = int(np.searchsorted(edges, -limit, side="right")) - 1
        end = int(np.searchsorted(edges, limit, side="left"))
        start, end = max(start, 0), min(end, len(counts))
        if end - start < _LEVELS:
            continue
        lost = _information_lost(counts, start, end)
        # On a tie the wider range, which comes later, cuts less.
        if lost <= best:
            best, found = lost, (float(edges[start]), float(edges[end]))
    return found


def _information_lost(counts: NDArray[np.int64], start: int, end: int) -> float:
    inside = counts[start:end].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    present = clipped > 0
    # One level stands for a run of bins: their mean over those that are not empty.
    level = np.arange(len(inside)) * _LEVELS // len(inside)
    total = np.bincount(level, inside, _LEVELS)
    filled = np.bincount(level, present, _LEVELS)
    shared = np.where(present, (total / np.maximum(filled, 1))[level], 0.0)
    # A clipped end with nothing inside its level would cost infinitely much.
    shared = np.where(present, np.maximum(shared, 1e-9), 0.0)
    right, other = clipped[present] / clipped.sum(), shared[present] / shared.sum()
    return float((right * np.log(right / other)).sum())


def second_moments(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Feeds]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of x x^T of each activation's rows x, FP64 [width, width].

    Raises:
        QuantizationError: as `Activations`.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    for batch in Activations(model, names, feeds).batches():
        for name, rows in batch.items():
            wide = rows.astype(np.float64)
            product = wide.T @ wide
            sums[name] = sums[name] + product if name in sums else product
            counts[name] = counts.get(name, 0) + len(rows)
    return {name: total / max(counts[name], 1) for name, total in sums.items()}
