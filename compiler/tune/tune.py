"""Tune one source for one target: the way in for commands and for assembly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from casemate.cpu import X86_64
from compiler.errors import SearchError
from compiler.progress import Progress
from compiler.targets.target import Target, is_this_machine
from compiler.tune.finish import finish_search
from compiler.tune.onnx_bench import CASES, OnnxBench, OnnxSource
from compiler.tune.onnx_space import OnnxSpace
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
    seconds: float = _SECONDS,
    cases: tuple[tuple[int, int], ...] = CASES,
) -> Tuned:
    """Search for the fastest form of an encoder's graph, measured on this machine.

    Args:
        request: the graph, promise, load, target, texts (one a line), work folder, time.
        progress: told what is going on.
        tokenizer: the graph's tokenizer.json.
        task: "embed" or "classify".
        seconds: of one timing of one shape.
        cases: (batch, tokens) to time.

    Raises:
        PromiseError: no candidate keeps the promise; names the closest.
        SearchError: the target is another machine: how fast ONNX Runtime's kernels are
            there cannot be told here; or the search cannot start or go on.
    """
    _measurable(request.target)
    source = OnnxSource(
        request.source,
        tokenizer,
        task,
        _lines(request.texts.evaluation),
        _lines(request.texts.calibration or ""),
        request.texts.labels,
        request.target.cores,
        seconds,
        cases,
    )
    bench = OnnxBench(source, request.folder)
    space = OnnxSpace(
        dict(bench.reference.settings),
        calibrated=bool(source.calibration),
        reduce_range=_saturates(request.target),
        ranking=bench.ranking,
    )
    return finish_search(request, bench, space, progress)


def _measurable(target: Target) -> None:
    if not is_this_machine(target):
        raise SearchError(
            f"target {target.name}: the speed of ONNX graphs cannot be predicted for another "
            "machine; tune there with --target this, or compile without tuning"
        )


def _saturates(target: Target) -> bool:
    """Tell whether products of bytes overflow their sums: x86 without VNNI."""
    return target.arch == X86_64 and not target.instructions & {"avx512_vnni", "avx_vnni"}


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
