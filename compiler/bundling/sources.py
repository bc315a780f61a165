"""Plan the bundle of a source, exporting its weights first where that decides the plan.

| source | made here | task |
| --- | --- | --- |
| GGUF file | nothing: copied | generate |
| ONNX file alone | nothing: copied | tensor |
| ONNX file, `tokenizer.json` and `config.json` beside it | pooling | embed or classify |
| folder of a BERT encoder or classifier | the graph, from its weights | embed or classify |
| folder of a decoder with a GGUF architecture | GGUF | generate |
| folder of anything else | ONNX, by compiler/onnx_export | embed, classify, or tensor |
| any folder or graph where `tensor` is asked for | ONNX, its own inputs and outputs | tensor |
| bundle | nothing: its first variant is copied | the bundle's |

The records of a checkpoint (`training.json`, `privacy.json`) come along only where the
model file is made here of the weights that they speak of.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from casemate import __version__
from compiler.bundling.attesting import Records, read_records
from compiler.bundling.copying import copy_file
from compiler.bundling.encoders import plan_bert, plan_onnx_encoder
from compiler.bundling.exported import Export, keep_export, kept_export
from compiler.bundling.inspect import inspect_gguf, inspect_onnx
from compiler.bundling.keeping import is_kept, keep
from compiler.bundling.plan import Plan, Report
from compiler.encoder.bert import CONFIG_FILE
from compiler.errors import SourceError
from compiler.files import Settings
from compiler.source.heads import masked_words, raw_scores
from compiler.source.source import (
    BUNDLE,
    CLASSIFY,
    EMBED,
    GENERATE,
    GGUF,
    TENSOR,
    Source,
)
from compiler.weights.files import WEIGHTS_FILE
from security.bundle.claim import REPORT_NAME
from security.bundle.content import ATTESTATION
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME, TOKENIZER_FILE, SpecialTokens
from security.bundle.opening import open_unsigned

_GRAPHS_OF_TEXT = ("text-classification", "sentence-similarity", "feature-extraction")
_WORDS_LEFT_OUT = (
    "the output layer for masked words is left out: the bundle embeds texts; with --task tensor "
    "it gives the logits of words instead"
)


def plan_source(
    source: Source,
    work: Path,
    report: Report,
    task: str | None = None,
    *,
    converter: Path | None = None,
) -> Plan:
    """Plan the bundle of a source.

    Args:
        source: what `read_source` returned.
        work: a folder for exports; what lies there from the same source is used again.
        report: is told what is going on.
        task: what the user wants, or None to take what the source is for.
        converter: llama.cpp's converter or its folder, for decoders that are not exported
            here; None looks at CASEMATE_LLAMA_CPP.

    Raises:
        SourceError: it cannot be exported, or is not for that task.
        UnsafeModelError: a pre-parser refused the model file.
    """
    plan = _noted(_plan(source, work, report, task, converter), source)
    if task is not None and plan.task != task:
        raise SourceError(f"{source.path}: is a model for the task {plan.task!r}, not {task!r}")
    return plan


def _plan(
    source: Source, work: Path, report: Report, task: str | None, converter: Path | None
) -> Plan:
    if source.kind == GGUF:
        return _plan_gguf(source.path, source)
    if source.kind == BUNDLE:
        return _plan_bundle(source)
    as_tensors = TENSOR in {task, source.task}
    if source.model is None:
        return _plan_weights(source, work, report, converter, as_tensors=as_tensors)
    if as_tensors:
        return _plan_tensor(source.model, source)
    return plan_onnx_encoder(source.folder, source.model)


def _plan_weights(
    source: Source, work: Path, report: Report, converter: Path | None, *, as_tensors: bool
) -> Plan:
    if as_tensors:
        return _plan_exported(source, work, report, as_tensors=True)
    if source.model_type == "bert" and source.task in (EMBED, CLASSIFY):
        return replace(plan_bert(source.path), export=_bert_export(source))
    if source.task == GENERATE:
        return _plan_decoder(source, work, report, converter)
    return _plan_exported(source, work, report, as_tensors=False)


def converter_facts(source: Source, converter: Path | None) -> dict[str, str] | None:
    """Return what identifies the converter that `plan_source` would use; None for none.

    Raises:
        SourceError: what was given is no converter.
    """
    if source.model is not None or source.task != GENERATE:
        return None
    from compiler.gguf_export.configuration import Configuration
    from compiler.gguf_export.converter import find_converter
    from compiler.gguf_export.families import is_exported

    tool = None if is_exported(Configuration(source.path)) else find_converter(converter)
    return None if tool is None else dict(tool.versions)


def _bert_export(source: Source) -> Export:
    """The facts of compiler/encoder's own export, which needs none of the export's tools."""
    from compiler.encoder.graph import OPSET

    tools = {"casemate": __version__, "onnx": version("onnx")}
    notes = (_WORDS_LEFT_OUT,) if masked_words(Settings(source.path / CONFIG_FILE)) else ()
    weights = {name: sha for name, sha in source.digests.items() if name.endswith(".safetensors")}
    return Export(tools, weights, notes, opset=OPSET)


def _noted(plan: Plan, source: Source) -> Plan:
    """Say so where a privacy claim lies with the source and does not come along."""
    place: Path | None = source.folder / REPORT_NAME
    if source.kind == BUNDLE:
        found = [p for p in source.path.glob("attestations/*.json") if _is_attestation(p)]
        place = found[0] if found else None
    if plan.records is not None or place is None or not place.is_file():
        return plan
    note = (
        f"{place} is not carried over: it speaks of weights that this model file "
        "was not made of here"
    )
    return replace(plan, note=note)


def _is_attestation(path: Path) -> bool:
    return ATTESTATION.fullmatch(f"attestations/{path.name}") is not None


def _plan_decoder(source: Source, work: Path, report: Report, converter: Path | None) -> Plan:
    from compiler.gguf_export.export import export_gguf

    model, facts = work / "model.gguf", work / "export.json"
    export = kept_export(facts) if is_kept(model) else None
    if export is None:
        model.unlink(missing_ok=True)
        made = export_gguf(source.path, model, dtype="f16", report=report, converter=converter)
        export = Export.of_gguf(made)
        keep_export(facts, export)
        keep(model)
    return replace(_plan_gguf(model, source), records=_records(source), export=export)


def _plan_exported(source: Source, work: Path, report: Report, *, as_tensors: bool) -> Plan:
    """Export to ONNX, in a process of its own, and see what came of it."""
    from compiler.onnx_export.export import export_onnx

    folder = work / "onnx"
    shutil.rmtree(folder, ignore_errors=True)
    made = export_onnx(source.path, folder, report=report)
    export = Export.of_onnx(made)
    if made.task in _GRAPHS_OF_TEXT and made.has_tokenizer and not as_tensors:
        plan = plan_onnx_encoder(made.folder, made.graph, made.labels or None)
    else:
        plan = _plan_tensor(made.graph, source)
        why = raw_scores(Settings(source.path / CONFIG_FILE))
        if why is not None:
            note = f"{why}: it is served as tensors, its scores as they are"
            export = replace(export, notes=(*export.notes, note))
    return replace(plan, origin=source.path, records=_records(source), export=export)


def _records(source: Source) -> Records | None:
    """The records of a checkpoint with one file of weights; of more there is no one digest."""
    weights = source.path / WEIGHTS_FILE
    return read_records(weights) if weights.is_file() else None


def _plan_gguf(model: Path, source: Source) -> Plan:
    summary = inspect_gguf(model)

    own = _own_digest(model, source)

    def write(target: Path, report: Report) -> None:
        copy_file(model, target, report, sha256=own)

    template = summary.chat_template
    config = source.folder / "tokenizer_config.json"
    if template is None and config.is_file():
        template = template_of(Settings(config))
    return Plan(
        task=GENERATE,
        backend=LLAMA_CPP,
        origin=source.path,
        write_model=write,
        sha256=own,
        context_tokens=summary.context_tokens,
        special_tokens=SpecialTokens(bos=summary.bos, eos=summary.eos),
        chat_template=template,
        license=summary.license,
    )


def _plan_tensor(model: Path, source: Source) -> Plan:
    inspect_onnx(model)
    own = _own_digest(model, source)

    def write(target: Path, report: Report) -> None:
        copy_file(model, target, report, sha256=own)

    return Plan(TENSOR, ONNXRUNTIME, source.path, write, context_tokens=0, sha256=own)


def _own_digest(model: Path, source: Source) -> str | None:
    """Return the digest of a model file that is the source's own; None for an export."""
    if model != source.model:
        return None
    return source.digests[model.relative_to(source.folder).as_posix()]


def _plan_bundle(source: Source) -> Plan:
    """Take over what a bundle says of itself; who signs the new one vouches for it."""
    with open_unsigned(source.path) as opened:
        manifest = opened.manifest
        tokenizer = None
        if manifest.tokenizer is not None:
            tokenizer = opened.files[TOKENIZER_FILE].read()
    model = source.path / manifest.variants[0].file
    own = _own_digest(model, source)

    def write(target: Path, report: Report) -> None:
        copy_file(model, target, report, sha256=own)

    return Plan(
        task=manifest.task,
        backend=manifest.variants[0].backend,
        origin=source.path,
        write_model=write,
        sha256=own,
        context_tokens=manifest.limits.context_tokens,
        tokenizer=tokenizer,
        special_tokens=manifest.special_tokens,
        encoder=manifest.encoder,
        chat_template=manifest.chat_template,
        license=manifest.license,
    )


def template_of(settings: Settings) -> str | None:
    """Return the chat template of a tokenizer_config.json; the one called "default" of many."""
    value = settings.raw("chat_template")
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        value = next((t.get("template") for t in named if t.get("name") == "default"), None)
    return value if isinstance(value, str) else None
