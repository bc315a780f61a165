"""Forms of a model for a target: the documented default, a named format, or a tuned one.

Defaults without tuning:

| model | form | checked |
| --- | --- | --- |
| decoder from weights | GGUF, `q8_0` | against f16, if texts are given |
| GGUF file | as it is | nothing to compare with |
| encoder (`embed`, `classify`) | 8-bit matrices and tables, ranges taken while running | always |
| graph of plain tensors | float32, after the passes | by the passes' parity |

Where an encoder's default breaks the promise, the tensors that it hurts most stay in float, as
few as the promise needs. A default that breaks it all the same, or that does not fit the model,
is not used: the form falls back to the reference. Either is said. A format that was asked for
by name and breaks the promise is an error: nothing is chosen in its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.bundling.formats import Plan, exact_anywhere, named_plan, quantize
from compiler.bundling.judging import judge
from compiler.bundling.keeping import is_kept, keep
from compiler.bundling.mixed import mixed_form
from compiler.bundling.reference import Reference, parted
from compiler.errors import PromiseError, QuantizationError, RuinedError
from compiler.llama.plan import GgufPlan
from compiler.onnx_measure.result import Feeds
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
# The plan and the statement name all.
_MOST_NAMED: Final = 8


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
    calibration: tuple[Feeds, ...] = ()
    if isinstance(plan, OnnxPlan) and plan.needs_calibration:
        calibration, reference = parted(reference)
    try:
        _make(reference, out, plan, calibration, part(progress, 0.0, 0.6))
    except QuantizationError as error:
        if name is not None:
            raise
        return _reference_form(reference, f"the default does not fit this model: {error}")
    judging = part(progress, 0.6, 0.8)
    quality, broken = _judged(reference, out, work, promise=promise, texts=texts, progress=judging)
    label = _label(plan, name or _default(reference))
    if broken and name is not None:
        raise PromiseError(
            f"--format {name} breaks the promise ({promise.name}): {'; '.join(broken)}. Promise "
            "less, choose another format, or let --tune search for one"
        )
    if broken:
        why = f"{label} would break the promise: {'; '.join(broken)}"
        rest = part(progress, 0.8, 1.0)
        return _spared(reference, plan, work, promise=promise, label=label, why=why, progress=rest)
    note = None if quality is not None else "its quality was not measured; give --calibration"
    return Form(label, out, dict(plan.to_dict()), exact_anywhere(plan), quality, note)


def _judged(
    reference: Reference,
    out: Path,
    work: Path,
    *,
    promise: Promise,
    texts: str | None,
    progress: Progress,
) -> tuple[Quality | None, tuple[str, ...]]:
    """Return a form's quality, None if it cannot be said, and what of the promise it breaks.

    A clause that was asked for is broken, too, where nothing could be measured.
    """
    try:
        quality = judge(reference, out, work, texts, progress)
    except RuinedError as error:
        return None, (str(error),)
    return quality, promise.broken(quality or Quality(samples=0))


def _spared(
    reference: Reference,
    plan: Plan,
    work: Path,
    *,
    promise: Promise,
    label: str,
    why: str,
    progress: Progress,
) -> Form:
    """Leave as few tensors in float as the promise needs, or all where that is not enough."""
    mixed = None
    if isinstance(plan, OnnxPlan) and reference.feeds:
        out = work / f"form-{_slug(plan)}-mixed.onnx"
        mixed = mixed_form(reference, plan, out, promise, progress)
    if mixed is None:
        return _reference_form(reference, why)
    count = len(mixed.plan.excluded)
    names = ", ".join(mixed.plan.excluded[:_MOST_NAMED]) + (", …" if count > _MOST_NAMED else "")
    return Form(
        f"{label}, {count} of {mixed.tensors} in float",
        out,
        dict(mixed.plan.to_dict()),
        exact_anywhere(mixed.plan),
        mixed.quality,
        f"{why}; so {count} of {mixed.tensors} tensors stay in float: {names}",
    )


def _make(
    reference: Reference,
    out: Path,
    plan: Plan,
    calibration: Sequence[Feeds],
    progress: Progress,
) -> None:
    """Quantize the reference, unless that was done before the work was cut short."""
    if not is_kept(out):
        out.unlink(missing_ok=True)
        quantize(
            reference.path,
            out,
            plan,
            calibration=list(calibration) or None,
            threads=len(os.sched_getaffinity(0)),
            progress=progress,
        )
        keep(out)


def _default(reference: Reference) -> str:
    """The format of a model that nobody named one for; see the module."""
    if reference.plan.backend == LLAMA_CPP:
        return _DECODER_FORMAT if reference.plan.export is not None else "keep"
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
