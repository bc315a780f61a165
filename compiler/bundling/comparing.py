"""Two models side by side: size, speed, and how far the second is from the first.

Both must be of one kind: two GGUF files with one vocabulary, or two encoders with one
tokenizer. Speeds are measured here, interleaved, and only their ratio is worth keeping.
"""

from __future__ import annotations

import filecmp
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from compiler.bundling.judging import judge
from compiler.bundling.reference import Reference, make_reference
from compiler.bundling.sources import plan_source
from compiler.bundling.texts import Texts
from compiler.errors import SourceError
from compiler.llama.speed import Spread
from compiler.progress import Progress, part
from compiler.source.read import read_source
from compiler.source.source import TENSOR
from compiler.tune.candidate import Quality
from security.bundle.manifest import LLAMA_CPP

_ROUNDS: Final = 3
_SECONDS: Final = 0.5
_BATCHES: Final = (1, 4, 16)
_PREFILL: Final = 256


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast two models were at one thing.

    Attributes:
        ratio: the second's rate by the first's of the same round.
        rounds: in which the two alternated.
        first: its median rate, per second.
        second: the same of the other.
    """

    ratio: Spread
    rounds: int
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was seen of two models, the second by the first.

    Attributes:
        sizes: of the model files, in bytes.
        speeds: by what was timed ("decode@1", "encode@32x128"); empty where nothing could be
            timed, and where both are one file.
        quality: of the second against the first, or None where there was nothing to judge on.
        same_bytes: whether both are one file.
    """

    sizes: tuple[int, int]
    speeds: dict[str, Timing]
    quality: Quality | None
    same_bytes: bool


def compare_models(
    first: Path, second: Path, work: Path, texts: Texts, *, timed: bool, progress: Progress
) -> Comparison:
    """Compare the model at `second` with the one at `first`.

    Args:
        first: the one that is taken to be right; anything that can become a bundle.
        second: another form of it.
        work: an empty folder.
        texts: to judge on; a decoder is not judged on the built-in ones, which are too few.
        timed: whether to measure speed.
        progress: told how far it is.

    Raises:
        SourceError: one cannot be read, or they are not of one kind.
        QuantizationError, ChildError: they cannot be run on the same inputs.
    """
    made = []
    for number, path in enumerate((first, second)):
        folder = work / str(number)
        folder.mkdir()
        plan = plan_source(read_source(path), folder, lambda label: progress(label, 0.0))
        made.append(make_reference(plan, texts, folder, part(progress, number * 0.1, 0.2)))
    one, other = made
    _require_alike(one, other)
    words = None if texts.built_in else "\n".join(texts.lines)
    quality = judge(one, other.path, work, words, part(progress, 0.2, 0.7))
    sizes = one.path.stat().st_size, other.path.stat().st_size
    # A piece at a time.
    same = filecmp.cmp(one.path, other.path, shallow=False)
    # What differs between two timings of one file is noise.
    speeds = _timed(one, other, part(progress, 0.7, 1.0)) if timed and not same else {}
    return Comparison(sizes, speeds, quality, same)


def _require_alike(one: Reference, other: Reference) -> None:
    if one.plan.backend != other.plan.backend or one.plan.task != other.plan.task:
        raise SourceError(
            f"{one.plan.origin} is for {one.plan.task} on {one.plan.backend}, "
            f"{other.plan.origin} for {other.plan.task} on {other.plan.backend}: they cannot be "
            f"compared{_alone(one, other)}"
        )
    if one.plan.tokenizer != other.plan.tokenizer or _tokens(one) != _tokens(other):
        raise SourceError(
            f"{other.plan.origin}: has another tokenizer than {one.plan.origin}: their answers "
            "are not about the same tokens"
        )


def _alone(one: Reference, other: Reference) -> str:
    """Say what a graph of plain tensors lacks to be an encoder."""
    tasks = {one.plan.task: one, other.plan.task: other}
    if TENSOR not in tasks or one.plan.backend != other.plan.backend:
        return ""
    return (
        f". What {tasks[TENSOR].plan.origin} is for cannot be told without the tokenizer.json and "
        "config.json of its model beside it: put all three into a folder"
    )


def _tokens(reference: Reference) -> list[bytes] | None:
    """Return the tokens of a GGUF file in order; None of a graph."""
    if reference.plan.backend != LLAMA_CPP:
        return None
    from compiler.llama.gguf_file import open_gguf

    with open_gguf(reference.path) as file:
        return file.tokens


def _timed(one: Reference, other: Reference, progress: Progress) -> dict[str, Timing]:
    if one.plan.backend == LLAMA_CPP:
        return _timed_decoders(one, other, progress)
    return {} if one.tokenizer is None else _timed_encoders(one, other, progress)


def _timed_decoders(one: Reference, other: Reference, progress: Progress) -> dict[str, Timing]:
    from compiler.llama.speed import MIN_PREFILL, SpeedSettings, measure_speeds

    settings = SpeedSettings(threads=_threads())
    prefill = max(MIN_PREFILL, min(_PREFILL, one.plan.context_tokens // 2))
    rates = _Rates()
    for number in range(_ROUNDS):
        seen = measure_speeds(
            [(one.path, settings), (other.path, settings)],
            batches=_BATCHES,
            prefill=prefill,
            seconds=_SECONDS,
            rounds=1,
            progress=part(progress, number / _ROUNDS, (number + 1) / _ROUNDS),
        )
        for which, speed in enumerate(seen):
            for batch in _BATCHES:
                rates.add(which, f"decode@{batch}", speed.decode[batch].median)
            rates.add(which, f"prefill@{prefill}", speed.prefill.median)
    return rates.timings()


def _timed_encoders(one: Reference, other: Reference, progress: Progress) -> dict[str, Timing]:
    from compiler.onnx_measure.speed import cases_within, measure_onnx_speed

    cases, rates = cases_within(one.plan.context_tokens), _Rates()
    for number in range(_ROUNDS):
        progress("timing both", number / _ROUNDS)
        for which, path in enumerate((one.path, other.path)):
            speed = measure_onnx_speed(
                path, cases=cases, threads=_threads(), seconds=_SECONDS, rounds=1
            )
            for case in speed.cases:
                rates.add(which, f"encode@{case.batch}x{case.length}", case.median)
    return rates.timings()


def _threads() -> int:
    return len(os.sched_getaffinity(0))


class _Rates:
    """Rates of two models by what was timed, one of each a round."""

    def __init__(self) -> None:
        self._seen: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})

    def add(self, which: int, name: str, rate: float) -> None:
        self._seen[which].setdefault(name, []).append(rate)

    def timings(self) -> dict[str, Timing]:
        first, second = self._seen
        found = {}
        for name, rates in first.items():
            ratios = [b / a for a, b in zip(rates, second[name], strict=True)]
            spread = Spread(median(ratios), min(ratios), max(ratios))
            found[name] = Timing(spread, len(ratios), median(rates), median(second[name]))
        return found
