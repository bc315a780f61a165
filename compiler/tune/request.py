"""What a caller asks of tuning, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from casemate.cpu import detect
from compiler.report.record import Compilation
from compiler.targets.target import Target
from compiler.tune.candidate import Trial
from compiler.tune.choose import Load
from compiler.tune.promise import Promise
from compiler.tune.search import SearchRequest


@dataclass(frozen=True, slots=True)
class Texts:
    """Text of the kind that the model will see; held in memory, never in a record.

    Attributes:
        evaluation: what quality is judged on; for an encoder one text a line.
        calibration: what importance and ranges are taken from, or None. Nothing is judged
            on it: rounding that was fitted to a text would look better on it than it is.
        labels: the right class of each line of `evaluation`, or None.
    """

    evaluation: str = field(repr=False)
    calibration: str | None = field(default=None, repr=False)
    labels: tuple[int, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What to tune, and for what.

    Attributes:
        source: the GGUF file or the ONNX graph, which is also the reference.
        target: the machine; speeds are measured only if it is this one.
        promise: the quality to keep.
        load: what to be fast at.
        folder: the work folder, which an interrupted search goes on in.
        texts: to judge quality on, and to calibrate with.
        budget_seconds: time for the search; None for no limit.
        rounds: of speed for each finalist.
        command: the words that asked for it, for the record.
        name: of what the source was made of, for the record; the source's own where empty.
        machine: the processor that measures.
    """

    source: Path
    target: Target
    promise: Promise
    load: Load
    folder: Path
    texts: Texts
    budget_seconds: float | None = None
    rounds: int = 3
    command: tuple[str, ...] = ()
    name: str = ""
    machine: str = field(default_factory=lambda: detect().model_name)

    def search_request(self) -> SearchRequest:
        """Return the part that the search looks at."""
        return SearchRequest(
            promise=self.promise,
            load=self.load,
            folder=self.folder,
            budget_seconds=self.budget_seconds,
            rounds=self.rounds,
            memory_bytes=self.target.memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it.

    Attributes:
        chosen: the chosen candidate with its figures.
        path: its file, in the work folder (or the source itself); copy it.
        record: all that was tried, for compilation.json.
    """

    chosen: Trial
    path: Path
    record: Compilation
