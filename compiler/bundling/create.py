"""Create a bundle of a source as it is: no quantization, one variant for any processor.

The low-level way. `casemate compile` (compiler/bundling/compile.py) makes variants first and
shares everything else: what a source is, how it is exported, and how a bundle is put together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.bundling.assemble import (
    CreatedBundle,
    VariantSource,
    assemble,
    partial_folder,
    require_free,
)
from compiler.bundling.plan import Report
from compiler.bundling.request import CreateRequest
from compiler.bundling.sources import plan_source
from compiler.source.read import read_source, require_unchanged

__all__ = ["CreateRequest", "CreatedBundle", "create_bundle"]

VARIANT_ID: Final = "default"


def create_bundle(request: CreateRequest, report: Report) -> CreatedBundle:
    """Create the bundle `request` describes.

    Args:
        request: what to make of what.
        report: is told what is going on, for a progress line.

    Raises:
        UsageError: the source or an option is not usable; names the file.
        BundleError: a value is not allowed in bundle.json, or a model was refused.
        OSError: the target cannot be written.
    """
    require_free(request.output)
    report("reading the model")
    source = read_source(request.source)
    # Exports lie beside the bundle: on a disk that has room for it.
    with partial_folder(request.output) as work:
        plan = plan_source(source, work, report, request.task, converter=request.converter)

        def write(target: Path, report: Report) -> None:
            plan.write_model(target, report)
            require_unchanged(source)

        return assemble(request, plan, [VariantSource(VARIANT_ID, write)], report)
