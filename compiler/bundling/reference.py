"""The model as it was given, in the backend's own format: what all forms are made of.

For llama.cpp it is the GGUF file itself, or the f16 export of a folder. For ONNX it is the
float graph after the passes, which a parity check holds to the exported one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from compiler.bundling.copying import write_file
from compiler.bundling.keeping import is_kept, keep
from compiler.bundling.labelled import label_numbers
from compiler.bundling.plan import Plan
from compiler.bundling.texts import Texts
from compiler.onnx_measure.result import Feeds
from compiler.progress import Progress, labels, part
from security.bundle.manifest import LLAMA_CPP

_CHECKED_BATCHES: Final = 1
_BATCH: Final = 8
MAX_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class Reference:
    """What forms are made of and compared with.

    Attributes:
        path: the model file.
        plan: what the model says of itself.
        tokenizer: a tokenizer.json, for encoders; else None.
        feeds: the texts as inputs of the graph; empty where it takes no texts.
        labels: the right class of each text, where they are labelled.
    """

    path: Path
    plan: Plan
    tokenizer: Path | None
    feeds: tuple[Feeds, ...] = ()
    labels: tuple[int, ...] | None = None


def make_reference(plan: Plan, texts: Texts, work: Path, progress: Progress) -> Reference:
    """Write the reference of a plan into a work folder, unless it is there.

    Raises:
        SourceError: it cannot be made, or the texts' labels are not the model's.
        PassError, UnsafeModelError: the graph is refused.
        OSError: the disk is full.
    """
    classes = label_numbers(texts, plan.encoder.labels if plan.encoder is not None else ())
    if plan.backend == LLAMA_CPP:
        path = work / "reference.gguf"
        _write(plan, path, work, progress)
        return Reference(path, plan, None)
    from compiler.passes.manager import optimize_onnx

    exported, path = work / "exported.onnx", work / "reference.onnx"
    _write(plan, exported, work, part(progress, 0.0, 0.4))
    tokenizer, feeds = None, _inputs(plan, texts, work)
    if plan.tokenizer is not None:
        tokenizer = work / "tokenizer.json"
    if not is_kept(path):
        path.unlink(missing_ok=True)
        optimize_onnx(
            exported,
            path,
            check=feeds[:_CHECKED_BATCHES],
            report=labels(part(progress, 0.4, 1.0), 10),
        )
        keep(path)
    return Reference(path, plan, tokenizer, tuple(feeds), classes)


def parted(reference: Reference) -> tuple[tuple[Feeds, ...], Reference]:
    """Return every third text to calibrate with, and the reference with the rest to judge on.

    A form would look better on texts that its ranges were taken from than it is.
    """
    calibration, judged, labels = [], [], []
    start = 0
    for one in reference.feeds:
        rows = np.arange(start, start + len(next(iter(one.values()))))
        start += len(rows)
        third = rows % 3 == 0
        if third.any():
            calibration.append({name: array[third] for name, array in one.items()})
        if not third.all():
            judged.append({name: array[~third] for name, array in one.items()})
        if reference.labels is not None:
            labels += [reference.labels[row] for row in rows[~third]]
    kept = None if reference.labels is None else tuple(labels)
    return tuple(calibration), replace(reference, feeds=tuple(judged), labels=kept)


def _write(plan: Plan, path: Path, work: Path, progress: Progress) -> None:
    """Have the model written beside its name, then renamed: what has its name is whole."""
    if is_kept(path, plan.sha256):
        return
    beside = work / f"{path.name}.partial"
    beside.unlink(missing_ok=True)
    plan.write_model(beside, lambda label: progress(label, 0.0))
    beside.replace(path)
    keep(path)


def _inputs(plan: Plan, texts: Texts, work: Path) -> list[Feeds]:
    """Return the texts as inputs; an encoder is looked at with at most MAX_TOKENS of each."""
    if plan.tokenizer is None:
        return []
    from compiler.onnx_measure.outputs import encode_texts

    tokenizer = work / "tokenizer.json"
    # Small, so written anew each time: what was taken up is then the plan's in any case.
    tokenizer.unlink(missing_ok=True)
    write_file(tokenizer, plan.tokenizer)
    most = min(plan.context_tokens, MAX_TOKENS)
    return list(encode_texts(tokenizer, texts.lines, batch=_BATCH, max_tokens=most))
