"""Run a search to its end, and make its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compiler.errors import SearchError
from compiler.progress import Progress, silent
from compiler.report.making import make_record
from compiler.report.record import SourceFacts, WorstTensor
from compiler.tune.bench import Bench, CandidateFailedError, Space
from compiler.tune.request import Tuned, TuneRequest
from compiler.tune.search import search


def _none() -> Sequence[WorstTensor]:
    return ()


def finish_search(
    request: TuneRequest,
    bench: Bench,
    space: Space,
    progress: Progress,
    worst: Callable[[], Sequence[WorstTensor]] = _none,
) -> Tuned:
    """Search, and return the chosen file with the record of all that was tried.

    Args:
        request: what was asked.
        bench: of the request's source.
        space: what to try.
        progress: told what is going on.
        worst: asked after the search for the tensors that narrowing costs most.

    Raises:
        PromiseError, SearchError, OSError: as `compiler.tune.search.search` says.
    """
    wanted = request.search_request()
    result = search(bench, space, wanted, progress)
    chosen = result.choice.chosen
    facts = SourceFacts(
        request.name or request.source.name,
        str(bench.context["source_sha256"]),
        request.source.stat().st_size,
        chosen.candidate.backend,
    )
    record = make_record(
        result,
        wanted,
        source=facts,
        target=request.target,
        machine=request.machine,
        context=bench.context,
        worst=worst(),
        command=request.command,
    )
    try:
        path = bench.make(chosen.candidate, silent)
    except CandidateFailedError as error:
        raise SearchError(f"the chosen form cannot be made again: {error}") from error
    return Tuned(chosen, path, record)
