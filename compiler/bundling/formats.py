"""Formats by the names that users write, as the plans of the two quantizers.

| backend | names |
| --- | --- |
| llama.cpp | `keep`, and llama.cpp's types and mixes: `f16`, `q8_0`, `q4_k_m`, `iq4_nl`, … |
| onnxruntime | `float32`, `float16`, `int8`, `int8-static`, `int8-blocks`, `int4-blocks` |

Invariant: what is asked of a format is asked here once: whether it needs calibration, and
whether its results depend on instructions that a processor may lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import QuantizationError
from compiler.llama.plan import KEEP, MIXES, TYPE_NUMBERS, GgufPlan
from compiler.onnx_measure.result import Feeds
from compiler.onnx_quantize.plan import (
    BLOCKS,
    DYNAMIC_INT8,
    FLOAT16,
    FLOAT32,
    STATIC_INT8,
    OnnxPlan,
)
from compiler.progress import Progress, labels
from compiler.targets.target import Target
from security.bundle.manifest import LLAMA_CPP

# Levels whose instructions sum products of bytes in 32 bits. Without them a kernel sums pairs
# of products in 16 bits, which overflow where the weights use all of theirs.
_WIDE_SUMS: Final = frozenset({"x86-64-v4-vnni", "armv8.2-dotprod", "armv8.6-i8mm"})
_INT8: Final = (DYNAMIC_INT8, STATIC_INT8)
ONNX_FORMATS: Final[Mapping[str, Mapping[str, Any]]] = {
    "float32": {"kind": FLOAT32},
    "float16": {"kind": FLOAT16},
    "int8": {"kind": DYNAMIC_INT8, "embeddings": True},
    "int8-static": {"kind": STATIC_INT8, "embeddings": True},
    "int8-blocks": {"kind": BLOCKS, "bits": 8},
    "int4-blocks": {"kind": BLOCKS, "bits": 4},
}

Plan = GgufPlan | OnnxPlan


def named_plan(backend: str, name: str, target: Target | None = None) -> Plan:
    """Return the plan that a format's name means.

    Args:
        backend: "llama.cpp" or "onnxruntime".
        name: of the format, in any case.
        target: of 8-bit products; without one they must be right everywhere.

    Raises:
        QuantizationError: the backend has no such format; lists those it has.
    """
    if backend == LLAMA_CPP:
        known = {one.lower(): one for one in (KEEP, *TYPE_NUMBERS, *MIXES)}
        if name.lower() not in known:
            raise QuantizationError(f"GGUF has no format {name[:40]!r}; {', '.join(known)}")
        return GgufPlan(default=known[name.lower()])
    if name.lower() not in ONNX_FORMATS:
        raise QuantizationError(
            f"ONNX has no format {name[:40]!r} here; there are {', '.join(ONNX_FORMATS)}"
        )
    values = dict(ONNX_FORMATS[name.lower()])
    if values["kind"] in _INT8:
        values["reduce_range"] = needs_spare_bit(target)
    return OnnxPlan(**values)


def needs_spare_bit(target: Target | None) -> bool:
    """Tell whether 8-bit products may saturate where a file for the target runs.

    They may unless its level guarantees that they do not: an appliance chooses by level alone,
    and what a target has beyond its level (VNNI without AVX-512), others of the level lack.

    Args:
        target: None for any machine.
    """
    return target is None or target.level not in _WIDE_SUMS


def exact_anywhere(plan: Plan) -> bool:
    """Tell whether a plan's file computes the same on every processor, rounding aside."""
    if isinstance(plan, GgufPlan):
        return True
    return plan.kind not in _INT8 or plan.reduce_range


@dataclass(frozen=True, slots=True)
class Made:
    """A model file in one format.

    Attributes:
        path: the file.
        size_bytes: its length.
        unlike: tensors that got another format than the plan's default, with it; empty
            where all could take it.
    """

    path: Path
    size_bytes: int
    unlike: Mapping[str, str]


def quantize(
    source: Path,
    out: Path,
    plan: Plan,
    *,
    calibration: list[Feeds] | None,
    threads: int,
    progress: Progress,
) -> Made:
    """Write `source` in another format to the new file `out`.

    Raises:
        QuantizationError: the plan does not fit the model or lacks calibration data.
        ChildError: the process that did it died.
        OSError: the file cannot be written.
    """
    if isinstance(plan, GgufPlan):
        from compiler.llama.quantize import quantize_gguf

        gguf = quantize_gguf(source, out, plan, threads=threads, progress=progress)
        return Made(gguf.path, gguf.size_bytes, dict(gguf.fallbacks))
    from compiler.onnx_quantize.quantize import quantize_onnx

    if plan.needs_calibration and not calibration:
        raise QuantizationError(
            f"{plan.label} needs texts to calibrate with: give them with --calibration"
        )
    onnx = quantize_onnx(source, out, plan, calibration, labels(progress, 8))
    return Made(onnx.path, onnx.size_bytes, dict.fromkeys(onnx.kept, "float32"))
