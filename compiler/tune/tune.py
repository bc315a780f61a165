"""Tune one source for one target: the way in for commands and for assembly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.bundling.formats import needs_spare_bit
from compiler.onnx_measure.speed import cases_within
from compiler.progress import Progress
from compiler.targets.choosing import this_machine
from compiler.targets.target import is_this_machine
from compiler.tune.bench import Bench
from compiler.tune.finish import finish_search
from compiler.tune.onnx_bench import CASES, MAX_TOKENS, OnnxBench, OnnxSource
from compiler.tune.onnx_predict import onnx_predictor
from compiler.tune.onnx_space import OnnxSpace
from compiler.tune.predict import PredictingBench
from compiler.tune.request import Texts, Tuned, TuneRequest

__all__ = ["Texts", "TuneRequest", "Tuned", "tune_gguf", "tune_onnx"]

_SECONDS: Final = 0.5


def tune_gguf(request: TuneRequest, progress: Progress) -> Tuned:
    """Search for the fastest form of a GGUF file: `compiler.tune.gguf_tune.tune_gguf`."""
    # Its modules are of no use to whoever tunes a graph.
    from compiler.tune import gguf_tune

    return gguf_tune.tune_gguf(request, progress)


def tune_onnx(
    request: TuneRequest,
    progress: Progress,
    tokenizer: Path,
    task: str,
    *,
    context_tokens: int,
    seconds: float = _SECONDS,
    cases: tuple[tuple[int, int], ...] = CASES,
) -> Tuned:
    """Search for the fastest form of an encoder's graph.

    For a target that is not this machine quality is measured here, and speed is measured
    here and scaled to the target; the record calls it predicted.

    Args:
        request: the graph, promise, load, target, texts (one a line), work folder, time.
        progress: told what is going on.
        tokenizer: the graph's tokenizer.json.
        task: "embed" or "classify".
        context_tokens: that the encoder has positions for; nothing longer is run.
        seconds: of one timing of one shape.
        cases: (batch, tokens) to time, cut to the context.

    Raises:
        PromiseError: no candidate keeps the promise; names the closest.
        SearchError: the search cannot start or go on.
    """
    here = is_this_machine(request.target)
    machine = request.target if here else this_machine()
    source = OnnxSource(
        request.source,
        tokenizer,
        task,
        _lines(request.texts.evaluation),
        _lines(request.texts.calibration or ""),
        request.texts.labels,
        machine.cores,
        seconds,
        cases_within(context_tokens, cases),
        min(MAX_TOKENS, context_tokens),
    )
    measuring = OnnxBench(source, request.folder)
    bench: Bench = measuring
    if not here:
        predict = onnx_predictor(measuring, request.source, machine, request.target)
        bench = PredictingBench(measuring, request.target, predict)
    space = OnnxSpace(
        dict(measuring.reference.settings),
        calibrated=bool(source.calibration),
        reduce_range=needs_spare_bit(request.target),
        ranking=measuring.ranking,
        runs_here=here,
    )
    return finish_search(request, bench, space, progress)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
