"""From what a search found to its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.report.entry import Entry
from compiler.report.record import Compilation, SourceFacts, WorstTensor
from compiler.targets.target import Target
from compiler.tune.choose import loss_name
from compiler.tune.search import SearchRequest, SearchResult
from security.strictjson import JsonValue


def make_record(
    result: SearchResult,
    request: SearchRequest,
    *,
    source: SourceFacts,
    target: Target,
    machine: str,
    context: Mapping[str, JsonValue],
    worst: Sequence[WorstTensor] = (),
    command: Sequence[str] = (),
) -> Compilation:
    """Return the record of a search.

    Args:
        result: what it found.
        request: what it was asked.
        source: the file it began with.
        target: the machine it was for.
        machine: the processor that it ran on.
        context: what figures depend on besides the candidates.
        worst: tensors by what narrowing costs, worst first.
        command: the words that started it.
    """
    chosen = result.choice.chosen
    return Compilation(
        source=source,
        target=target,
        machine=machine,
        promise=request.promise,
        load=request.load.label,
        load_rates=request.load.rates(sorted(chosen.rounds[0].speed.rates)),
        loss=loss_name(chosen),
        chosen=chosen.candidate.digest,
        reference=result.reference.candidate.digest,
        front=tuple(one.candidate.digest for one in result.choice.front),
        candidates=tuple(Entry.of(one) for one in result.trials),
        worst=tuple(worst),
        context=context,
        command=tuple(command),
        seconds=round(result.seconds, 1),
        budget_seconds=request.budget_seconds,
        notes=(*result.notes, *result.advice),
    )
