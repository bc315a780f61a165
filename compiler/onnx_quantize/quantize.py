"""Make a quantized ONNX file by plan, in a process of its own.

The bytes depend on the source, the plan, the calibration inputs and the versions of the
libraries alone: no time stamps, no names from counters that outlive a call, protobuf in
its deterministic form. The file is written beside and renamed, so nothing half-written is
ever under its name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import ModelProto

from compiler.child.job import run_child
from compiler.errors import QuantizationError
from compiler.onnx_file import write_model
from compiler.onnx_measure.feeds import load_feeds, save_feeds
from compiler.onnx_measure.result import Feeds
from compiler.onnx_quantize.blocks import add_blocks
from compiler.onnx_quantize.calibrate import Statistics, gather_statistics
from compiler.onnx_quantize.edit import GraphEdit
from compiler.onnx_quantize.half import store_half
from compiler.onnx_quantize.int8 import add_dynamic, add_static, add_tables
from compiler.onnx_quantize.plan import (
    DYNAMIC_INT8,
    FLOAT16,
    FLOAT32,
    STATIC_INT8,
    OnnxPlan,
)
from compiler.onnx_quantize.result import OnnxQuantized
from compiler.onnx_quantize.sites import GATHER, MATMUL, Site, find_sites
from compiler.passes.graph import skeleton
from compiler.progress import Progress

Report = Callable[[str], None]
_NO_STATISTICS: Final = Statistics()


def quantize_onnx(
    source: Path,
    out: Path,
    plan: OnnxPlan,
    calibration: Sequence[Feeds] | None = None,
    report: Report | None = None,
) -> OnnxQuantized:
    """Quantize the ONNX file `source` into `out`.

    Args:
        source: a float graph that the pre-parser has passed; `optimize_onnx` first finds
            more to quantize in it.
        out: written beside and renamed; replaced if it is there.
        plan: what to do.
        calibration: inputs that are typical of use, where the plan needs them.
        report: is told what is being done.

    Raises:
        QuantizationError: the plan does not fit the graph or the calibration inputs.
        ChildError: the process died.
    """
    if plan.needs_calibration and not calibration:
        raise QuantizationError(f"the plan {plan.label!r} needs calibration inputs")
    if report is not None:
        report(f"quantizing: {plan.label}")
    with tempfile.TemporaryDirectory(prefix=".quantize-", dir=out.parent) as name:
        folder = Path(name)
        result = folder / "model.onnx"
        feeds = calibration if plan.needs_calibration and calibration else ()
        request = {
            "model": str(source.absolute()),
            "to": str(result.absolute()),
            "plan": plan.to_dict(),
            "calibration": save_feeds(folder / "calibration.npz", feeds),
        }
        reply = run_child(__name__, request, scratch=folder, of=source)
        size = result.stat().st_size
        result.replace(out)
    return OnnxQuantized(out, plan, size, tuple(reply["quantized"]), tuple(reply["kept"]))


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Quantize, in the child."""
    del progress
    source, plan = Path(request["model"]), OnnxPlan.from_dict(request["plan"])
    statistics = gather_statistics(source, plan, load_feeds(request["calibration"]))
    model = onnx.load(source, load_external_data=False)
    quantized, kept = quantize_model(model, plan, statistics)
    try:
        onnx.checker.check_model(skeleton(model))
    except onnx.checker.ValidationError as error:
        raise QuantizationError("quantizing gave a graph that is not valid") from error
    write_model(Path(request["to"]), model)
    return {"quantized": quantized, "kept": kept}


def quantize_model(
    model: ModelProto, plan: OnnxPlan, statistics: Statistics = _NO_STATISTICS
) -> tuple[list[str], list[str]]:
    """Quantize a model in place; return the names of tensors that were, and were not.

    Args:
        model: a float graph.
        plan: what to do.
        statistics: what `gather_statistics` says of the graph, where the plan needs it.

    Raises:
        QuantizationError: as `quantize_onnx`.
    """
    sites = find_sites(model)
    names = {site.tensor for site in sites}
    unknown = sorted(set(plan.excluded) - names)
    if plan.kind == FLOAT16:
        return store_half(model, plan.excluded)
    if unknown:
        raise QuantizationError(f"the plan excludes {unknown[0]!r}, which the graph does not have")
    if plan.kind == FLOAT32:
        return [], sorted(names)
    chosen = [site for site in sites if site.tensor not in plan.excluded]
    products = [site for site in chosen if site.kind == MATMUL]
    tables = [site for site in chosen if site.kind == GATHER] if plan.embeddings else []
    if not products and not tables:
        raise QuantizationError("the graph has no constant matrix that the plan could quantize")
    edit = GraphEdit(model)
    _add_products(edit, model, products, plan, statistics)
    add_tables(edit, model, tables)
    edit.apply()
    done = {site.tensor for site in (*products, *tables)}
    return sorted(done), sorted(names - done)


def _add_products(
    edit: GraphEdit,
    model: ModelProto,
    products: Sequence[Site],
    plan: OnnxPlan,
    statistics: Statistics,
) -> None:
    if plan.kind == DYNAMIC_INT8:
        add_dynamic(edit, model, products, plan)
    elif plan.kind == STATIC_INT8:
        add_static(edit, model, products, plan, statistics.ranges)
    else:
        add_blocks(edit, model, products, plan, statistics.moments)
