"""Export a model directory to GGUF.

The steps, and what an error or a crash after each leaves:

1. judge the source; a checkpoint's files are held against its record.
2. plan: config.json says what the file will hold, the tokenizer what its vocabulary is.
3. hold the weights against the plan.
4. write a hidden file beside the target, block by block: an error removes it; a crash
   leaves `.NAME.*.partial`, which nothing reads.
5. pre-parse it as strictly as an appliance would.
6. prove that llama.cpp gives the source's tokens with it.
7. rename it to the target: the file is there, whole.

Architectures that are not exported here go through llama.cpp's converter, if there is one,
which takes the place of 2 to 4. Where 6 shows that it guessed the tokenizer wrong, the
tokenizer is written anew, and 5 and 6 are done again.

Invariant: the same source, options and versions of the tools give the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compiler.bundling.inspect import inspect_gguf
from compiler.bundling.plan import Report
from compiler.errors import SourceError
from compiler.files import digest_of
from compiler.gguf_export.configuration import Configuration
from compiler.gguf_export.converter import Converter, convert, find_converter, read_converted
from compiler.gguf_export.families import family_of, is_exported
from compiler.gguf_export.model import check_tensors, plan_model
from compiler.gguf_export.origin import check_origin
from compiler.gguf_export.parity import check_tokens, require_llama
from compiler.gguf_export.result import DTYPES, GgufExport
from compiler.gguf_export.retokenize import ANEW_NOTE, replace_vocabulary
from compiler.gguf_export.specials import read_specials
from compiler.gguf_export.vocabulary import (
    load_tokenizer,
    named_pretokenizer,
    read_vocabulary,
)
from compiler.gguf_export.writing import write_gguf
from compiler.weights.reading import open_weights
from security.errors import UnsafeModelError
from security.files import sync_folder
from security.preparse import GgufSummary

_TOOLS = ("gguf", "numpy", "tokenizers", "llama-cpp-python")


def export_gguf(
    source: Path, out: Path, *, dtype: str = "f16", report: Report, converter: Path | None = None
) -> GgufExport:
    """Write the model in the directory `source` to the new GGUF file `out`.

    Args:
        source: a Hugging Face directory or a checkpoint of the trainer; a checkpoint is
            verified against its training.json first.
        out: the file to make; it must not exist. A failure leaves nothing there.
        dtype: of the matrices: "f16", "f32", "bf16" or "q8_0".
        report: is told what is going on.
        converter: llama.cpp's convert_hf_to_gguf.py or its source tree, for architectures
            that are not exported here; None looks at CASEMATE_LLAMA_CPP.

    Raises:
        SourceError: the source cannot be exported; says which file and what to do.
        BundleError: a checkpoint's files are not those of its record.
        UnsafeModelError: the pre-parser refuses what was made.
        OSError: the target cannot be written.
    """
    if dtype not in DTYPES:
        raise SourceError(f"the type {dtype!r} is none of {', '.join(DTYPES)}")
    if os.path.lexists(out):
        raise SourceError(f"{out}: there is something already; remove it or give another name")
    report(f"reading {source.name}")
    # (1)
    require_llama(source)
    check_origin(source)
    config = Configuration(source)
    tool = None if is_exported(config) else find_converter(converter)
    with _beside(out) as partial:
        # (2) to (6)
        if tool is None:
            made = _export(source, partial, dtype, report)
        else:
            report(f"running {tool.script.name}")
            made = _convert(source, partial, dtype, tool, report)
        sha256, size = digest_of(partial), partial.stat().st_size
        # (7)
        partial.rename(out)
    sync_folder(out.parent)
    return GgufExport(
        path=out,
        sha256=sha256,
        size_bytes=size,
        architecture=made.summary.architecture,
        dtype=dtype,
        tokenizer=made.summary.tokenizer_model,
        pre_tokenizer=made.pre_tokenizer,
        context_tokens=made.summary.context_tokens,
        weights=made.weights,
        tokens_checked=made.tokens_checked,
        notes=made.notes,
        tools={**made.tools, **{name: _version(name) for name in _TOOLS}},
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """What one of the two ways wrote."""

    summary: GgufSummary
    pre_tokenizer: str | None
    weights: Mapping[str, str]
    tokens_checked: int
    notes: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)


def _export(source: Path, partial: Path, dtype: str, report: Report) -> _Made:
    # (2)
    family = family_of(Configuration(source))
    config = Configuration(source, family.defaults)
    model = plan_model(config)
    vocabulary, tokenizer = read_vocabulary(source, config, model.sizes.vocabulary)
    # (3)
    weights = open_weights(source)
    check_tensors(model, weights, config)
    # (4)
    write_gguf(partial, model, vocabulary, weights, dtype=dtype, report=report)
    digests = dict(weights.digests())
    # (5)
    summary = _accepted(partial, source)
    # (6)
    report("comparing the tokens with llama.cpp's")
    count = check_tokens(partial, vocabulary, tokenizer, source)
    notes = (*model.notes, *vocabulary.notes)
    return _Made(summary, vocabulary.pre, digests, count, notes)


def _accepted(partial: Path, source: Path) -> GgufSummary:
    """Pre-parse what was made; an error names what it was made of, not a hidden file."""
    try:
        return inspect_gguf(partial)
    except UnsafeModelError as error:
        problem = str(error).removeprefix(f"{partial}: ")
        raise UnsafeModelError(error.reason, f"the GGUF made of {source}: {problem}") from error


def _convert(source: Path, partial: Path, dtype: str, tool: Converter, report: Report) -> _Made:
    digests = open_weights(source).digests()
    convert(source, partial, dtype, tool, pre=named_pretokenizer(source))
    if open_weights(source).digests() != digests:
        raise SourceError(f"{source}: its weights changed while they were converted")
    # (5)
    summary = _accepted(partial, source)
    # (6)
    report("comparing the tokens with llama.cpp's")
    config = Configuration(source)
    tokenizer, content = load_tokenizer(source, summary.vocabulary_size)
    vocabulary = read_converted(partial, content, read_specials(source, tokenizer, config))
    notes = vocabulary.notes
    try:
        count = check_tokens(partial, vocabulary, tokenizer, source)
    except SourceError as refusal:
        report("writing the tokenizer anew")
        try:
            vocabulary, tokenizer = read_vocabulary(source, config, summary.vocabulary_size)
        except SourceError:
            raise refusal from None
        replace_vocabulary(partial, vocabulary)
        summary = _accepted(partial, source)
        count = check_tokens(partial, vocabulary, tokenizer, source)
        notes = (ANEW_NOTE, *vocabulary.notes)
    return _Made(summary, vocabulary.pre, digests, count, notes, tool.versions)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give a hidden name beside the target, and leave nothing under it."""
    if not out.parent.is_dir():
        raise SourceError(f"{out.parent}: is no folder to write into")
    partial = out.with_name(f".{out.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
