"""A form that a search chose: compiler/tune, asked with what a compilation knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compiler.bundling.formats import exact_anywhere
from compiler.bundling.forms import Form
from compiler.bundling.plan import Plan
from compiler.bundling.reference import Reference
from compiler.bundling.texts import Texts
from compiler.errors import QuantizationError, SearchError
from compiler.llama.plan import GgufPlan
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.progress import Progress
from compiler.targets.target import Target
from compiler.tune.choose import PREFILL, Load
from compiler.tune.promise import Promise
from compiler.words import printable
from security.bundle.manifest import LLAMA_CPP

if TYPE_CHECKING:
    from compiler.tune import tune


_LEAST_TEXTS: Final = 24


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to search.

    Attributes:
        load: what the model is to be fast at.
        budget_seconds: for each target; None for no limit.
        rounds: of speed for each finalist.
        command: as it was typed, for the record.
    """

    load: Load
    budget_seconds: float | None = None
    rounds: int = 3
    command: tuple[str, ...] = ()


def require_searchable(plan: Plan, texts: Texts, load: Load) -> None:
    """Refuse what no search can judge or time, before anything is made.

    Raises:
        SearchError: the model takes no texts, or too few were given, or it has no such load.
        QuantizationError: it is a decoder, and no texts were given.
    """
    if plan.backend != LLAMA_CPP and load.kind == PREFILL:
        raise SearchError(
            "--for prefill is for models that generate; an encoder takes a number of clients, or "
            "size"
        )
    if plan.backend != LLAMA_CPP and plan.tokenizer is None:
        raise SearchError(
            f"{plan.origin}: a graph of plain tensors has no texts to be judged on; compile it "
            "with --no-tune"
        )
    if plan.backend == LLAMA_CPP and texts.built_in:
        raise QuantizationError(
            "a search judges a decoder on text of the kind that it will see: give a file with "
            "--calibration (some thousand words), or compile with --no-tune"
        )
    if plan.backend != LLAMA_CPP and len(texts.lines) < _LEAST_TEXTS:
        raise SearchError(
            f"{len(texts.lines)} texts are too few for a search, which calibrates with a third and "
            f"judges on the rest: give {_LEAST_TEXTS} or more"
        )


def tuned_form(
    reference: Reference,
    target: Target,
    *,
    work: Path,
    tuning: Tuning,
    promise: Promise,
    texts: Texts,
    progress: Progress,
) -> Form:
    """Return the form that a search finds fastest within the promise.

    For another machine than this one speeds are predicted, and the record says so.

    Raises:
        PromiseError: no candidate keeps it; names the closest.
        SearchError: this model cannot be tuned, or the search cannot go on.
        QuantizationError: the texts are too short.
    """
    from compiler.tune import tune

    require_searchable(reference.plan, texts, tuning.load)
    task, backend = reference.plan.task, reference.plan.backend
    folder = work / f"tune-{target.name}"
    folder.mkdir(exist_ok=True)
    tokenizer = reference.tokenizer
    request = tune.TuneRequest(
        source=reference.path,
        target=target,
        promise=promise,
        load=tuning.load,
        folder=folder,
        texts=_split(texts, reference),
        budget_seconds=tuning.budget_seconds,
        rounds=tuning.rounds,
        command=tuning.command,
        name=printable(reference.plan.origin.resolve().name),
    )
    if tokenizer is None:
        found = tune.tune_gguf(request, progress)
    else:
        found = tune.tune_onnx(
            request, progress, tokenizer, task, context_tokens=reference.plan.context_tokens
        )
    candidate = found.chosen.candidate
    reader = GgufPlan if backend == LLAMA_CPP else OnnxPlan
    made = reader.from_dict(candidate.plan)
    return Form(
        label=candidate.label,
        path=found.path,
        plan=dict(candidate.plan),
        exact_anywhere=exact_anywhere(made),
        quality=found.chosen.quality,
        record=found.record,
    )


def _split(texts: Texts, reference: Reference) -> tune.Texts:
    """Give a third to calibration and judge on the rest: never on what was fitted.

    Texts of an encoder may be sorted by what they are about, so every third is taken; those of
    a decoder may be one long text, so it is the first.
    """
    from compiler.tune import tune

    lines, labels = texts.lines, reference.labels
    if reference.plan.backend == LLAMA_CPP:
        # By length: headings come one a line, too.
        whole, seen, cut = sum(map(len, lines)), 0, 0
        while cut < len(lines) and 3 * seen < whole:
            seen += len(lines[cut])
            cut += 1
        return tune.Texts("\n".join(lines[cut:]), "\n".join(lines[:cut]))
    judged = [number for number in range(len(lines)) if number % 3]
    return tune.Texts(
        "\n".join(lines[number] for number in judged),
        "\n".join(lines[::3]),
        None if labels is None else tuple(labels[number] for number in judged),
    )
