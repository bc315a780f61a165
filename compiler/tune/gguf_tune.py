"""Tune a GGUF model: measured where the target is this machine, predicted elsewhere."""

from __future__ import annotations

from casemate.cpu import detect
from compiler.llama.gguf_file import check_file
from compiler.llama.imatrix import tokenize
from compiler.llama.speed import MIN_PREFILL
from compiler.progress import Progress, silent
from compiler.report.record import WorstTensor
from compiler.targets.target import is_this_machine
from compiler.tune.bench import Bench
from compiler.tune.finish import finish_search
from compiler.tune.gguf_bench import PREFILL, GgufBench, GgufSource
from compiler.tune.gguf_predict import gguf_predictor
from compiler.tune.gguf_space import GgufSpace
from compiler.tune.predict import PredictingBench
from compiler.tune.request import Tuned, TuneRequest
from compiler.tune.windows import calibration_tokens, window_of, windows_of


def tune_gguf(
    request: TuneRequest, progress: Progress = silent, *, source: GgufSource | None = None
) -> Tuned:
    """Search for the fastest form of a GGUF file within a promise.

    For a target that is not this machine quality is measured here and speed is predicted;
    the record says so, and no predicted figure is ever called measured.

    Args:
        request: the file, promise, load, target, texts, work folder, time.
        progress: told what is going on.
        source: how to measure, for other windows, batches or times than the defaults.

    Raises:
        PromiseError: no candidate keeps the promise; names the closest.
        SearchError: the search cannot start or go on.
        SourceError: the file cannot be read, or the text is too short.
    """
    here = is_this_machine(request.target)
    if source is None:
        source = default_source(request, request.target.cores if here else detect().threads)
    measuring = GgufBench(source, request.folder)
    bench: Bench = measuring
    if not here:
        predict = gguf_predictor(measuring, request.target, source.batches, source.prefill)
        bench = PredictingBench(measuring, request.target, predict)
    space = GgufSpace(
        measuring.tensors,
        measuring.default_settings,
        calibrated=bool(source.calibration),
        max_kl=request.promise.max_kl,
        ranking=measuring.ranking,
        runs_here=here,
    )
    return finish_search(request, bench, space, progress, lambda: _worst(space))


def default_source(request: TuneRequest, threads: int) -> GgufSource:
    """Return how to measure by default: within the model's context, on what the text has."""
    summary = check_file(request.source)
    window = window_of(summary.context_tokens)
    tokens = tokenize(request.source, request.texts.evaluation)
    size = request.source.stat().st_size
    return GgufSource(
        request.source,
        request.texts.evaluation,
        request.texts.calibration,
        threads,
        window=window,
        windows=windows_of(len(tokens), window, size, summary.vocabulary_size),
        most_calibration=calibration_tokens(size),
        prefill=max(MIN_PREFILL, min(PREFILL, summary.context_tokens)),
    )


def _worst(space: GgufSpace) -> list[WorstTensor]:
    """Return the groups that were ranked, worst first."""
    found = [
        WorstTensor(one.group, one.format, max(0.0, one.divergence), one.saved_bytes)
        for one in space.ranked
    ]
    return sorted(found, key=lambda one: -one.divergence)
