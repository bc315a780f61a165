"""Forms of a model for a target: the documented default, a named format, or a tuned one.

Defaults without tuning:

| model | form | checked |
| --- | --- | --- |
| decoder from weights | GGUF, `q8_0` | against f16, if texts are given |
| GGUF file | as it is | nothing to compare with |
| encoder (`embed`, `classify`) | 8-bit matrices, ranges taken while running | always |
| graph of plain tensors | float32, after the passes | by the passes' parity |

A default that breaks the promise, or that does not fit the model, is not used: the form
falls back to the reference, and says so. A format that was asked for by name and breaks the
promise is an error: nothing is chosen in its place.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.bundling.formats import Plan, exact_anywhere, named_plan, quantize
from compiler.bundling.reference import Reference
from compiler.errors import PromiseError, QuantizationError
from compiler.llama.plan import GgufPlan
from compiler.onnx_quantize.plan import FLOAT32, OnnxPlan
from compiler.progress import Progress, part
from compiler.report.record import Compilation
from compiler.targets.target import Target
from compiler.tune.candidate import Quality
from compiler.tune.promise import Promise
from security.bundle.manifest import LLAMA_CPP
from security.strictjson import JsonValue

_DECODER_FORMAT: Final = "q8_0"
_ENCODER_FORMAT: Final = "int8"
_ENCODERS: Final = ("embed", "classify")
_WINDOW: Final = 512
_MOST_WINDOWS: Final = 8


@dataclass(frozen=True, slots=True)
class Form:
    """One file of the model, made for a target.

    Attributes:
        label: for people: the format, such as "q8_0".
        path: the file, in the work folder.
        plan: JSON of how it was made of the reference.
        exact_anywhere: whether other processors compute the same with it.
        quality: against the reference; None where nothing was measured.
        note: what a person should know of the choice, or None.
        record: of a search that chose it (docs/formats/compilation.md), or None.
    """

    label: str
    path: Path
    plan: dict[str, JsonValue]
    exact_anywhere: bool
    quality: Quality | None = None
    note: str | None = None
    record: Compilation | None = None


def untuned_form(
    reference: Reference,
    target: Target | None,
    work: Path,
    *,
    name: str | None,
    promise: Promise,
    texts: str | None,
    progress: Progress,
) -> Form:
    """Return a form without a search.

    Args:
        reference: the model as it was given.
        target: for which processor; None for any.
        work: where files are made; what is there is used again.
        name: of the format, or None for the default of the model.
        promise: bounds on quality.
        texts: that a decoder is judged on; None leaves it unjudged.
        progress: told how far it is.

    Raises:
        PromiseError: the format that was asked for breaks the promise.
        QuantizationError: it is none, does not fit the model, or the texts are too short.
    """
    plan = _plan(reference, name, target)
    kept = _kept(plan)
    if kept:
        return _reference_form(reference, None)
    out = work / f"form-{_slug(plan)}{reference.path.suffix}"
    try:
        _make(reference, out, plan, part(progress, 0.0, 0.6))
    except QuantizationError as error:
        if name is not None:
            raise
        return _reference_form(reference, f"the default does not fit this model: {error}")
    quality = judge(reference, out, work, texts, part(progress, 0.6, 1.0))
    broken = () if quality is None else promise.broken(quality)
    label = _label(plan, name or _default(reference))
    if broken and name is not None:
        raise PromiseError(
            f"--format {name} breaks the promise ({promise.name}): {'; '.join(broken)}. Promise "
            "less, choose another format, or let --tune search for one"
        )
    if broken:
        return _reference_form(reference, f"{label} would break the promise: {'; '.join(broken)}")
    note = None if quality is not None else "its quality was not measured; give --calibration"
    return Form(label, out, dict(plan.to_dict()), exact_anywhere(plan), quality, note)


def _make(reference: Reference, out: Path, plan: Plan, progress: Progress) -> None:
    """Quantize the reference, unless that was done before the work was cut short."""
    if not out.exists():
        quantize(
            reference.path,
            out,
            plan,
            calibration=list(reference.feeds) or None,
            threads=len(os.sched_getaffinity(0)),
            progress=progress,
        )


def judge(
    reference: Reference, path: Path, work: Path, texts: str | None, progress: Progress
) -> Quality | None:
    """Return how far a file's answers are from the reference's; None if it cannot be said."""
    if reference.plan.backend == LLAMA_CPP:
        return _judge_gguf(reference, path, work, texts, progress)
    if not reference.feeds:
        return None
    from compiler.onnx_measure.outputs import run_outputs
    from compiler.onnx_measure.quality import compare_outputs

    threads = len(os.sched_getaffinity(0))
    progress("comparing it with the float model", 0.0)
    right = run_outputs(reference.path, reference.feeds, threads=threads)
    progress("comparing it with the float model", 0.5)
    seen = compare_outputs(right, run_outputs(path, reference.feeds, threads=threads))
    if reference.plan.task == "classify":
        return Quality(seen.rows, kl_mean=seen.kl_mean, top1=seen.top1)
    rank = None if math.isnan(seen.similarity_spearman) else seen.similarity_spearman
    return Quality(seen.rows, spearman=rank)


def _judge_gguf(
    reference: Reference, path: Path, work: Path, texts: str | None, progress: Progress
) -> Quality | None:
    if texts is None:
        return None
    from compiler.llama.imatrix import tokenize
    from compiler.llama.quality import compare, make_reference

    threads = len(os.sched_getaffinity(0))
    window = min(_WINDOW, reference.plan.context_tokens)
    kept = work / "quality.json"
    if not kept.exists():
        tokens = tokenize(reference.path, texts)
        make_reference(
            reference.path,
            tokens,
            kept,
            window=window,
            windows=max(1, min(_MOST_WINDOWS, len(tokens) // window)),
            threads=threads,
            progress=part(progress, 0.0, 0.5),
        )
    seen = compare(path, kept, threads=threads, progress=part(progress, 0.5, 1.0))
    return Quality(
        seen.tokens,
        kl_mean=seen.kl_mean,
        kl_p99=seen.kl_p99,
        perplexity=seen.perplexity,
        perplexity_ratio=seen.perplexity_ratio,
        top1=seen.top1,
    )


def _default(reference: Reference) -> str:
    """The format of a model that nobody named one for; see the module."""
    if reference.plan.backend == LLAMA_CPP:
        return _DECODER_FORMAT if reference.plan.exported else "keep"
    return _ENCODER_FORMAT if reference.plan.task in _ENCODERS else "float32"


def _plan(reference: Reference, name: str | None, target: Target | None) -> Plan:
    return named_plan(reference.plan.backend, name or _default(reference), target)


def _kept(plan: Plan) -> bool:
    return plan.default == "keep" if isinstance(plan, GgufPlan) else plan.kind == FLOAT32


def _reference_form(reference: Reference, note: str | None) -> Form:
    """The reference itself; made by no plan of a quantizer."""
    gguf = reference.plan.backend == LLAMA_CPP
    plan: Plan = GgufPlan() if gguf else OnnxPlan(kind=FLOAT32)
    label = "as it is" if gguf else "float32"
    return Form(label, reference.path, dict(plan.to_dict()), True, None, note)


def _label(plan: Plan, name: str) -> str:
    spare = isinstance(plan, OnnxPlan) and plan.reduce_range
    return f"{name.lower()}, 7-bit weights" if spare else name.lower()


def _slug(plan: Plan) -> str:
    """A file name for a plan of `named_plan`: two that differ have different ones."""
    if isinstance(plan, GgufPlan):
        return plan.default.lower()
    return f"{plan.kind}{plan.bits}{'-spare' if plan.reduce_range else ''}"
