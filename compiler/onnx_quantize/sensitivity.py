"""Which tensors cost the most when they are quantized, and the plan that spares them.

Each tensor is quantized alone, the rest of the graph left in float, and the outputs are
compared: so the error of rounding the activations that a product meets counts as much as
that of its weights, and later layers may forgive what earlier ones do. A ranking by the
error of the weights alone would see neither.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from compiler.child.job import run_child
from compiler.errors import QuantizationError
from compiler.onnx_measure.feeds import load_feeds, save_feeds
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.session import open_model, open_session, run_session
from compiler.onnx_quantize.calibrate import gather_statistics
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.onnx_quantize.quantize import quantize_model, quantize_onnx
from compiler.onnx_quantize.result import TensorError
from compiler.onnx_quantize.sites import GATHER, find_sites
from compiler.progress import Progress, silent

Accept = Callable[[Path], bool]
# What ruins the outputs beyond all measure: no error that still says something is as large.
_RUINED: Final = 1e15


def rank_sensitivity(
    source: Path,
    plan: OnnxPlan,
    inputs: Sequence[Feeds],
    *,
    progress: Progress = silent,
) -> tuple[TensorError, ...]:
    """Return the error that each tensor causes alone, the largest first.

    Args:
        source: a float graph that the pre-parser has passed.
        plan: how tensors are quantized; those that it excludes are not tried.
        inputs: typical ones; they calibrate, too, where the plan needs it.
        progress: is told each tensor's name.

    Raises:
        QuantizationError: no inputs, or a plan or inputs that do not fit the graph.
        ChildError: the process died.
    """
    if not inputs:
        raise QuantizationError("ranking tensors needs inputs to compare outputs on")
    with tempfile.TemporaryDirectory(prefix="casemate-ranking-") as name:
        folder = Path(name)
        request = {
            "model": str(source.absolute()),
            "plan": plan.to_dict(),
            "inputs": save_feeds(folder / "inputs.npz", inputs),
        }
        reply = run_child(__name__, request, progress=progress, of=source)
    return tuple(TensorError(**item) for item in reply["errors"])


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Rank, in the child."""
    path = Path(request["model"])
    plan = OnnxPlan.from_dict(request["plan"])
    feeds = load_feeds(request["inputs"])
    found = find_sites(onnx.load(path, load_external_data=False))
    sites = [
        site
        for site in found
        if site.tensor not in plan.excluded and (plan.embeddings or site.kind != GATHER)
    ]
    tensors = sorted({site.tensor for site in sites})
    every = sorted({site.tensor for site in found})
    # The rest of the graph stays in float, so activations are the same for all.
    statistics = gather_statistics(path, plan, feeds)
    expected = _outputs(open_session(path), feeds)
    errors = []
    for number, tensor in enumerate(tensors):
        progress(f"ranking {tensor}", number / len(tensors))
        model = onnx.load(path, load_external_data=False)
        size = next(int(np.prod(i.dims)) for i in model.graph.initializer if i.name == tensor)
        alone = replace(plan, excluded=tuple(name for name in every if name != tensor))
        quantize_model(model, alone, statistics)
        divergence = _divergence(expected, _outputs(open_model(model), feeds))
        errors.append(TensorError(tensor, min(divergence, _RUINED), size))
    errors.sort(key=lambda item: (-item.divergence, item.tensor))
    return {"errors": [asdict(item) for item in errors]}


def mixed_plan(
    source: Path,
    plan: OnnxPlan,
    ranking: Sequence[TensorError],
    accept: Accept,
    work: Path,
    *,
    calibration: Sequence[Feeds] | None = None,
) -> OnnxPlan | None:
    """Return the plan with the fewest of the worst tensors in float that is accepted.

    The number is found by bisection, so about log2 of the tensors' number of files are made;
    what is returned was itself accepted.

    Args:
        source: as `rank_sensitivity`.
        plan: what to begin with.
        ranking: worst tensors first.
        accept: whether the quantized file at a path is good enough.
        work: an existing folder for the files that are tried.
        calibration: as `quantize_onnx`.

    Returns:
        The plan, or None where even a single quantized tensor is too many.
    """
    candidate = work / "mixed.onnx"

    def good(spared: int) -> OnnxPlan | None:
        names = {error.tensor for error in ranking[:spared]}
        trial = replace(plan, excluded=tuple(sorted({*plan.excluded, *names})))
        try:
            quantize_onnx(source, candidate, trial, calibration)
            return trial if accept(candidate) else None
        finally:
            candidate.unlink(missing_ok=True)

    best = good(0)
    if best is not None:
        return best
    low, high = 0, len(ranking)
    # Invariant: sparing `low` is not enough; `high` is, or is everything.
    while high - low > 1:
        middle = (low + high) // 2
        trial = good(middle)
        if trial is None:
            low = middle
        else:
            best, high = trial, middle
    return best


def _outputs(session: Any, feeds: Sequence[Feeds]) -> list[NDArray[np.float64]]:
    return [
        np.asarray(output, np.float64)
        for one in feeds
        for output in run_session(session, one)
        if np.issubdtype(output.dtype, np.floating)
    ]


def _divergence(
    expected: Sequence[NDArray[np.float64]], found: Sequence[NDArray[np.float64]]
) -> float:
    """Return the squared error as a share of the squared reference, over all outputs."""
    error = sum(float(((a - b) ** 2).sum()) for a, b in zip(expected, found, strict=True))
    size = sum(float((a**2).sum()) for a in expected)
    share = error / max(size, 1e-30)
    return share if math.isfinite(share) else _RUINED
