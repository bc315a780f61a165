"""What calibration inputs say of activations: their ranges, and their second moments.

The graph is run as it is, its activations added to its outputs, one batch at a time; nothing
of a batch is kept but minimum and maximum, a histogram, or the sum of x x^T. Padding (where
`attention_mask` is 0) is left out where an activation has a row for each token.

Percentile and entropy: Migacz, 8-bit Inference with TensorRT, GTC 2017. A range is cut
where the distribution that it leaves, in 256 levels, differs least (Kullback-Leibler) from
the one with the cut values moved to the ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compiler.errors import QuantizationError
from compiler.onnx_file import write_model
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.session import open_session, run_session
from compiler.onnx_quantize.plan import ENTROPY, MIN_MAX, STATIC_INT8, OnnxPlan
from compiler.onnx_quantize.sites import MATMUL, find_sites

_BINS = 2048
_LEVELS = 256
_CUTS = 64
_MASK = "attention_mask"

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What calibration says of activations, by name.

    Attributes:
        ranges: smallest and largest value, for static 8 bits.
        moments: mean of x x^T over rows x, FP64 [width, width], for GPTQ.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    moments: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def gather_statistics(source: Path, plan: OnnxPlan, feeds: Sequence[Feeds]) -> Statistics:
    """Return what a plan needs to know of the activations of a graph.

    Only one copy of the weights is in memory at a time: the graph's, or its session's.

    Args:
        source: a float graph that the pre-parser has passed.
        plan: what will be done; products of tensors that it excludes are not looked at.
        feeds: the calibration inputs.

    Raises:
        QuantizationError: no inputs, the graph cannot be run on them, or an activation is
            no finite number.
    """
    if not plan.needs_calibration:
        return Statistics()
    if not feeds:
        raise QuantizationError("this plan needs calibration inputs, and there are none")
    with tempfile.TemporaryDirectory(prefix="casemate-observed-") as folder:
        session, names = open_observed(source, plan, Path(folder) / "model.onnx")
    if not names:
        return Statistics()
    activations = Activations(session, names, feeds)
    if plan.kind == STATIC_INT8:
        return Statistics(ranges=find_ranges(activations, plan))
    return Statistics(moments=second_moments(activations))


def open_observed(source: Path, plan: OnnxPlan, path: Path) -> tuple[Any, list[str]]:
    """Write a graph whose outputs are its activations as well; open it.

    Returns:
        The session, and the names of the activations, each FP32.
    """
    model = onnx.load(source, load_external_data=False)
    names = sorted(
        {
            site.activation
            for site in find_sites(model)
            if site.kind == MATMUL and site.tensor not in plan.excluded
        }
    )
    present = {value.name for value in model.graph.output}
    for name in names:
        if name not in present:
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            model.graph.output.append(value)
    write_model(path, model)
    del model
    return open_session(path), names


class Activations:
    """Runs a graph on calibration inputs and hands out activations.

    Args:
        session: of a graph that gives them as outputs.
        names: the values wanted, each FP32.
        feeds: the calibration inputs, at least one run.
    """

    def __init__(self, session: Any, names: Sequence[str], feeds: Sequence[Feeds]) -> None:
        self._session, self._names, self._feeds = session, list(names), feeds

    def batches(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield each run's activations, FP32 [rows, width], without padding.

        Raises:
            QuantizationError: the graph cannot be run on the inputs.
        """
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


def find_ranges(activations: Activations, plan: OnnxPlan) -> dict[str, Range]:
    """Return the range that each activation is to be quantized over, by the plan's method.

    Raises:
        QuantizationError: the graph cannot be run, or an activation is no finite number.
    """
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


def second_moments(activations: Activations) -> dict[str, NDArray[np.float64]]:
    """Return the mean of x x^T of each activation's rows x, FP64 [width, width].

    Raises:
        QuantizationError: the graph cannot be run.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    for batch in activations.batches():
        for name, rows in batch.items():
            wide = rows.astype(np.float64)
            product = wide.T @ wide
            sums[name] = sums[name] + product if name in sums else product
            counts[name] = counts.get(name, 0) + len(rows)
    return {name: total / max(counts[name], 1) for name, total in sums.items()}
