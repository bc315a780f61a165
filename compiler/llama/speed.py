"""How fast a GGUF file runs here, and what it takes: llama.cpp's C API, no server around it.

Speed drifts from minute to minute, so candidates that are to be compared are measured in
turns: each round loads every candidate in a fresh child. Compare ratios of medians of
one call, never figures of two calls.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import QuantizationError
from compiler.llama.gguf_file import check_file
from compiler.llama.job import run_job
from compiler.progress import Progress, part, silent

BATCHES: Final = (1, 4, 16)
MIN_PREFILL: Final = 32
_MAX_CLIENTS = 128
_GRACE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class SpeedSettings:
    """How llama.cpp is to run a file.

    Attributes:
        threads: computing threads.
        flash: flash attention.
        extra_buffers: weights repacked at loading for this CPU's kernels.
        batch_tokens: most tokens of one step of prefill.
    """

    threads: int = 1
    flash: bool = True
    extra_buffers: bool = True
    batch_tokens: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 512 or not 1 <= self.batch_tokens <= 8192:
            raise QuantizationError("threads are 1 to 512, and batch_tokens 1 to 8192")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure of several rounds: median, lowest, highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class GgufSpeed:
    """Speeds of one candidate.

    Attributes:
        decode: clients to tokens/s, all clients together.
        prefill: tokens/s of one long prompt.
        load_seconds: model and context.
        peak_mib: resident memory above an empty child's, mapped weights included.
    """

    decode: Mapping[int, Spread]
    prefill: Spread
    load_seconds: Spread
    peak_mib: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        value = asdict(self)
        value["decode"] = {str(count): asdict(s) for count, s in self.decode.items()}
        return value


def measure_speeds(
    candidates: Sequence[tuple[Path, SpeedSettings]],
    *,
    batches: Sequence[int] = BATCHES,
    prefill: int = 512,
    seconds: float = 1.0,
    rounds: int = 3,
    progress: Progress = silent,
) -> list[GgufSpeed]:
    """Measure several candidates in turns.

    Args:
        batches: numbers of clients.
        prefill: tokens of the long prompt.
        seconds: of decoding at each number of clients, each round.
        rounds: how often each candidate is measured.

    Returns:
        One result a candidate, in their order.

    Raises:
        QuantizationError: numbers out of range.
        SourceError, UnsafeModelError, ChildError: see the package.
    """
    if not batches or not all(1 <= count <= _MAX_CLIENTS for count in batches):
        raise QuantizationError(f"numbers of clients lie between 1 and {_MAX_CLIENTS}")
    if prefill < MIN_PREFILL or rounds < 1 or seconds <= 0:
        raise QuantizationError(
            f"prefill is at least {MIN_PREFILL} tokens, rounds at least 1, seconds positive"
        )
    for path, _ in candidates:
        check_file(path)
    results: list[list[dict[str, Any]]] = [[] for _ in candidates]
    total = rounds * len(candidates)
    done = 0
    for _ in range(rounds):
        for result, (path, settings) in zip(results, candidates, strict=True):
            arguments = asdict(settings) | {
                "gguf": str(path.resolve()),
                "batches": list(batches),
                "prefill": prefill,
                "seconds": seconds,
            }
            limit = _GRACE_SECONDS + seconds * len(batches)
            share = part(progress, done / total, (done + 1) / total)
            threads = settings.threads
            answer = run_job("timing", arguments, seconds=limit, threads=threads, progress=share)
            result.append(answer)
            done += 1
    return [_summary(result, batches) for result in results]


def measure_speed(gguf: Path, settings: SpeedSettings | None = None, **options: Any) -> GgufSpeed:
    """Measure one file; options as for `measure_speeds`."""
    return measure_speeds([(gguf, settings or SpeedSettings())], **options)[0]


def _summary(answers: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> GgufSpeed:
    return GgufSpeed(
        decode={n: Spread.of([answer["decode"][str(n)] for answer in answers]) for n in batches},
        prefill=Spread.of([answer["prefill"] for answer in answers]),
        load_seconds=Spread.of([answer["load_seconds"] for answer in answers]),
        peak_mib=max(answer["peak_bytes"] for answer in answers) / (1 << 20),
    )
