"""From a source to a bundle: read, export, make a form for each target, put it together.

1. Read the source; refuse what cannot become a bundle before anything is written.
2. Export it and make the reference, in a work folder beside the output.
3. Make a form for each target: the default of its kind, a named format, or a tuned one.
4. Order the variants, fastest processors first, and say what each needs.
5. Put the bundle together, with statements of how it was made.

An interruption leaves the work folder and nothing else: the same command goes on where it
was. `casemate bundle create` shares steps 1, 2 (the export alone) and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.bundling.arranging import SINGLE_ID, CompiledVariant, arrange, require_levels
from compiler.bundling.assemble import (
    CreatedBundle,
    VariantSource,
    assemble,
    require_free,
)
from compiler.bundling.carrying import carried
from compiler.bundling.conversion import conversion_statement, tools
from compiler.bundling.copying import copy_file
from compiler.bundling.formats import named_plan
from compiler.bundling.forms import Form, untuned_form
from compiler.bundling.labelled import texts_of
from compiler.bundling.plan import Plan, Report
from compiler.bundling.reference import Reference, make_reference
from compiler.bundling.request import CreateRequest
from compiler.bundling.sources import converter_facts, plan_source
from compiler.bundling.texts import Texts
from compiler.bundling.tuned import Tuning, require_searchable, tuned_form
from compiler.bundling.workfolder import work_folder
from compiler.progress import Progress, part
from compiler.report.statement import statement
from compiler.source.read import read_source, require_unchanged
from compiler.source.source import Source
from compiler.targets.target import Target
from compiler.tune.promise import Promise
from security.bundle.conversion import CONVERSION_NAME
from security.bundle.manifest import Variant
from security.strictjson import JsonValue

_EXPORTED, _FORMED = 0.2, 0.9


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """What to compile, and for what.

    Attributes:
        bundle: the source, the output, and what the bundle is to say of itself.
        targets: at least one; no two of one level.
        promise: the quality to keep.
        format: a format by name instead of the default; not together with `tuning`.
        tuning: how to search; None for no search.
        calibration: a file of texts, one a line; None for the built-in ones.
        labelled: a file of labelled texts instead.
        public_texts: whether the texts given were declared to hold nobody's private data.
        work: the work folder; None for a hidden one beside the output.
    """

    bundle: CreateRequest
    targets: tuple[Target, ...]
    promise: Promise
    format: str | None = None
    tuning: Tuning | None = None
    calibration: Path | None = None
    labelled: Path | None = None
    public_texts: bool = False
    work: Path | None = None

    @property
    def work_path(self) -> Path:
        """Where the work folder is."""
        output = self.bundle.output.absolute()
        return self.work or output.parent / f".{output.name}.work"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of it: the bundle, and its variants in their order."""

    bundle: CreatedBundle
    variants: tuple[CompiledVariant, ...]


def compile_bundle(request: CompileRequest, progress: Progress) -> Compiled:
    """Make the bundle that `request` describes.

    Raises:
        UsageError: the source, a target, the promise or an option is not usable.
        BundleError, UnsafeModelError: a value or a model was refused.
        OSError: the disk is full or the output cannot be written; the work folder stays.
    """
    require_free(request.bundle.output)
    require_levels(request.targets)
    progress("reading the model", 0.0)
    source = read_source(request.bundle.source)
    texts = texts_of(request.calibration, request.labelled)
    with work_folder(request.work_path, _decides(source, texts, request)) as work:
        report = _report(progress, 0.0)
        asked = request.bundle
        plan = plan_source(source, work, report, asked.task, converter=asked.converter)
        _require_makeable(request, plan, texts)
        plan = carried(plan, texts, public_texts=request.public_texts)
        reference = make_reference(plan, texts, work, part(progress, 0.02, _EXPORTED))
        # What follows is made of the reference alone.
        require_unchanged(source)
        forms = _forms(request, reference, texts, work, part(progress, _EXPORTED, _FORMED))
        variants = arrange(forms)
        created = _assemble(
            request,
            source,
            plan,
            variants=variants,
            texts=texts,
            report=_report(progress, _FORMED),
        )
        return Compiled(created, variants)


def _require_makeable(request: CompileRequest, plan: Plan, texts: Texts) -> None:
    """Refuse before the export what would be refused after it."""
    if request.tuning is not None:
        require_searchable(plan, texts, request.tuning.load)
    if request.format is not None:
        named_plan(plan.backend, request.format)


def _forms(
    request: CompileRequest, reference: Reference, texts: Texts, work: Path, progress: Progress
) -> list[tuple[Target, Form]]:
    made = []
    share = 1.0 / len(request.targets)
    for number, target in enumerate(request.targets):
        within = part(progress, number * share, min(1.0, (number + 1) * share))
        if request.tuning is not None:
            form = tuned_form(
                reference,
                target,
                work=work,
                tuning=request.tuning,
                promise=request.promise,
                texts=texts,
                progress=within,
            )
        else:
            form = untuned_form(
                reference,
                target,
                work,
                name=request.format,
                promise=request.promise,
                texts=None if texts.built_in else "\n".join(texts.lines),
                progress=within,
            )
        made.append((target, form))
    return made


def _assemble(
    request: CompileRequest,
    source: Source,
    plan: Plan,
    *,
    variants: Sequence[CompiledVariant],
    texts: Texts,
    report: Report,
) -> CreatedBundle:
    listed = [VariantSource(one.id, _copier(one.form.path), one.cpu) for one in variants]
    files = {one.id: Variant.of(one.id, plan.backend).file for one in variants}

    def statements(subjects: Mapping[str, str]) -> dict[str, bytes]:
        described = [(files[one.id], one.targets, one.form) for one in variants]
        made = {
            CONVERSION_NAME: conversion_statement(
                source,
                described,
                promise=request.promise,
                texts=texts,
                public_texts=request.public_texts,
                subjects=subjects,
                backend=plan.backend,
                export=plan.export,
            )
        }
        for one in variants:
            if one.form.record is not None:
                name = _compilation_name(one.id)
                subject = {files[one.id]: subjects[files[one.id]]}
                made[name] = statement(one.form.record, subject)
        return made

    return assemble(request.bundle, plan, listed, report, statements)


def _compilation_name(variant_id: str) -> str:
    suffix = "" if variant_id == SINGLE_ID else f"-{variant_id}"
    return f"attestations/compilation{suffix}.json"


def _copier(path: Path) -> Callable[[Path, Report], None]:
    def write(target: Path, report: Report) -> None:
        copy_file(path, target, report)

    return write


def _decides(source: Source, texts: Texts, request: CompileRequest) -> dict[str, JsonValue]:
    """All that decides what lies in the work folder, whatever it is then used for."""
    return {
        "source": dict(source.digests),
        "texts": texts.sha256,
        "task": request.bundle.task,
        "converter": converter_facts(source, request.bundle.converter),
        "tools": {**tools("llama.cpp"), **tools("onnxruntime")},
    }


def _report(progress: Progress, fraction: float) -> Report:
    return lambda label: progress(label, fraction)
