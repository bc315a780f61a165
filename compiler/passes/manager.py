"""Order passes by what they need and ensure, run them, and check each one's result.

After every pass the graph must be valid (onnx's checker), keep its interface, and give the
same numbers on the check's inputs within a tolerance. A pass that breaks this is named, and
nothing is written. The file-level function works in processes of its own, and compares
source and result first: only where they differ are the passes run again, each checked.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from compiler.child.job import run_child
from compiler.errors import PassError, QuantizationError
from compiler.onnx_file import write_model
from compiler.onnx_measure.feeds import load_feeds, save_feeds
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.session import open_model, open_session, run_session
from compiler.passes.base import GraphPass
from compiler.passes.common_subexpressions import CommonSubexpressions
from compiler.passes.constant_folding import ConstantFolding
from compiler.passes.fusion import Fusion
from compiler.passes.graph import skeleton
from compiler.passes.named_constants import NamedConstants
from compiler.passes.shape_inference import ShapeInference
from compiler.passes.training_leftovers import TrainingLeftovers
from compiler.passes.unique_constants import UniqueConstants
from compiler.passes.unused import Unused
from compiler.progress import Progress

Report = Callable[[str], None]
# Of the largest output: fused kernels sum in another order.
TOLERANCE = 1e-4


def default_passes(*, fuse: bool = False) -> list[GraphPass]:
    """Return the passes that every graph goes through, with fusion if asked for."""
    passes: list[GraphPass] = [
        NamedConstants(),
        TrainingLeftovers(),
        ConstantFolding(),
        UniqueConstants(),
        CommonSubexpressions(),
    ]
    if fuse:
        passes.append(Fusion())
    return [*passes, Unused(), ShapeInference()]


def order_passes(passes: Sequence[GraphPass]) -> list[GraphPass]:
    """Return the passes in an order that meets their needs, else in the order given.

    Raises:
        PassError: nothing ensures what a pass needs.
    """
    waiting, ordered = list(passes), list[GraphPass]()
    states: set[str] = set()
    while waiting:
        ready = next((item for item in waiting if item.needs <= states), None)
        if ready is None:
            lacks = sorted(waiting[0].needs - states)
            raise PassError(f"the pass {waiting[0].name} needs {', '.join(lacks)} first")
        waiting.remove(ready)
        ordered.append(ready)
        states |= ready.ensures
    return ordered


def run_passes(
    model: ModelProto,
    passes: Sequence[GraphPass],
    *,
    check: Sequence[Feeds] = (),
    tolerance: float = TOLERANCE,
    report: Report | None = None,
) -> ModelProto:
    """Run passes over a model; the one given is used up.

    Args:
        model: a graph that a pre-parser has passed.
        passes: in any order.
        check: inputs that the graph is run on, before the first and after every pass.
        tolerance: the largest difference of an output, as a share of the largest
            absolute output (or of 1, if that is smaller).
        report: is told each pass's name.

    Raises:
        PassError: no order meets the needs, or a pass made the graph invalid, changed
            its interface or its outputs.
        QuantizationError: the graph cannot be run on the check's inputs.
    """
    interface = _interface(model)
    expected = _outputs(model, check)
    for step in order_passes(passes):
        if report is not None:
            report(step.name)
        model = step.run(model)
        try:
            onnx.checker.check_model(skeleton(model))
            found = _outputs(model, check)
        except (onnx.checker.ValidationError, QuantizationError) as error:
            raise PassError(f"the pass {step.name} made the graph invalid") from error
        if _interface(model) != interface:
            raise PassError(f"the pass {step.name} changed the inputs or outputs of the graph")
        difference = _difference(expected, found)
        if not difference <= tolerance:
            raise PassError(
                f"the pass {step.name} changed the outputs by {difference:.2g} of the largest, "
                f"which is more than {tolerance:.2g}"
            )
    return model


def optimize_onnx(
    source: Path,
    out: Path,
    *,
    check: Sequence[Feeds] = (),
    fuse: bool = False,
    tolerance: float = TOLERANCE,
    report: Report | None = None,
) -> Path:
    """Run the default passes over a file in a child process; write the result to `out`.

    Args:
        source: an ONNX file that the pre-parser has passed.
        out: written beside and renamed; replaced if it is there.
        check, tolerance: as `run_passes`.
        fuse: whether transformer operators are fused.
        report: is told that the passes run.

    Raises:
        PassError: as `run_passes`.
        ChildError: the process died.
    """
    if report is not None:
        report("graph passes")
    with tempfile.TemporaryDirectory(prefix=".passes-", dir=out.parent) as name:
        folder = Path(name)
        result = folder / "model.onnx"
        request = {
            "model": str(source.absolute()),
            "to": str(result.absolute()),
            "check": save_feeds(folder / "check.npz", check),
            "fuse": fuse,
            "tolerance": tolerance,
        }
        run_child(__name__, {**request, "task": "rewrite"}, scratch=folder, of=source)
        difference = 0.0
        if check:
            compared = run_child(__name__, {**request, "task": "compare"}, of=source)
            difference = compared["difference"]
        if not difference <= tolerance:
            run_child(__name__, {**request, "task": "name the pass"}, scratch=folder, of=source)
            raise PassError(f"the passes together changed the outputs by {difference:.2g}")
        result.replace(out)
    return out


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run the passes, or compare what they made with the source, in the child."""
    del progress
    source, result = Path(request["model"]), Path(request["to"])
    feeds = load_feeds(request["check"])
    if request["task"] == "compare":
        return {"difference": _difference_of_files(source, result, feeds)}
    rewriting = request["task"] == "rewrite"
    model = run_passes(
        onnx.load(source, load_external_data=False),
        default_passes(fuse=request["fuse"]),
        check=() if rewriting else feeds,
        tolerance=request["tolerance"],
    )
    if rewriting:
        write_model(result, model)
    return {}


def _difference_of_files(source: Path, result: Path, feeds: Sequence[Feeds]) -> float:
    expected = _run(open_session(source), feeds)
    try:
        found = _run(open_session(result), feeds)
    except QuantizationError:
        return sys.float_info.max
    return min(_difference(expected, found), sys.float_info.max)


def _interface(model: ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    graph = model.graph
    return tuple(value.name for value in graph.input), tuple(value.name for value in graph.output)


def _outputs(model: ModelProto, check: Sequence[Feeds]) -> list[NDArray[Any]]:
    if not check:
        return []
    return _run(open_model(model), check)


def _run(session: Any, check: Sequence[Feeds]) -> list[NDArray[Any]]:
    return [output for feeds in check for output in run_session(session, feeds)]


def _difference(expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    """Return the largest difference, relative to the largest value but at least to 1."""
    worst = 0.0
    for right, value in zip(expected, found, strict=True):
        if right.shape != value.shape or right.dtype != value.dtype:
            return float("inf")
        if not right.size:
            continue
        if not np.issubdtype(right.dtype, np.floating):
            worst = max(worst, 0.0 if (right == value).all() else float("inf"))
            continue
        if not np.array_equal(np.isfinite(right), np.isfinite(value)):
            return float("inf")
        pair = [
            np.nan_to_num(item.astype(np.float64), posinf=0, neginf=0) for item in (right, value)
        ]
        scale = max(1.0, float(np.abs(pair[0]).max()))
        worst = max(worst, float(np.abs(pair[0] - pair[1]).max()) / scale)
    return worst
