"""Pass after pass: train, measure on held-out text, look at every weight, save, tell.

Invariants: a state is saved only after every weight was seen to be a number; a run that
goes on from a state of `n` chunks trains on chunk `n` next; what is told never holds text.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from trainer.embeddings.corpus import Corpus
from trainer.embeddings.state import StateFolder
from trainer.embeddings.training import ChunkReport, SkipGram
from trainer.errors import CheckpointError
from trainer.reporting.reporter import Reporter, StepReport, ValidationReport

# Words a second are a mean over about so many seconds.
_SPEED_SECONDS = 2.0


@dataclass(slots=True)
class Progress:
    """How far a run has come; everything in it is saved and restored.

    Attributes:
        chunks: chunks trained on, over all passes.
        seconds: time spent training, without validation and saving.
        loss: mean loss of a pair in the newest chunk; None before the first.
        validation_loss: the same on held-out text, newest; None before the first.
        best_loss: the smallest validation loss so far.
    """

    chunks: int = 0
    seconds: float = 0.0
    loss: float | None = None
    validation_loss: float | None = None
    best_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends before its last pass.

    Attributes:
        asked: whether somebody asked it to stop.
        seconds: of this process's training; infinite for none.
    """

    asked: Callable[[], bool]
    seconds: float = math.inf


class Passes:
    """The passes of one run.

    Args:
        model: what is trained.
        corpus: the text to train on.
        validation: held-out text, or None.
        states: where states are saved.
        reporter: is told.
        words: words in the text, those outside of the vocabulary included.
        every_pass: save after each pass, not only at the end.

    Attributes:
        model: what is trained.
        chunks: of all passes.
        words_per_chunk: a mean.
        progress: how far the run has come.
    """

    def __init__(
        self,
        model: SkipGram,
        corpus: Corpus,
        validation: Corpus | None,
        states: StateFolder,
        reporter: Reporter,
        *,
        words: int,
        every_pass: bool = True,
    ) -> None:
        self.model = model
        self._corpus = corpus
        self._validation = validation
        self._states = states
        self._reporter = reporter
        self._every_pass = every_pass
        self._in_pass = model.chunks(corpus)
        self.chunks = self._in_pass * model.options.passes
        self.words_per_chunk = words / self._in_pass
        self.progress = Progress()
        self._speed: deque[tuple[float, int]] = deque()

    @property
    def words(self) -> int:
        """Words gone over so far, those thinned out or unknown included."""
        return round(self.progress.chunks * self.words_per_chunk)

    @property
    def passes(self) -> int:
        """Complete passes so far."""
        return self.progress.chunks // self._in_pass

    @property
    def finished(self) -> bool:
        """Whether the last pass is complete."""
        return self.progress.chunks >= self.chunks

    def restore(self) -> None:
        """Go on from the newest state, if there is one.

        Raises:
            CheckpointError: it is damaged or of another run.
        """
        saved = self._states.latest()
        if saved is None:
            return
        if saved.inputs.shape != self.model.inputs.shape:
            raise CheckpointError(
                f"the saved state has {saved.inputs.shape[0]:,} words of {saved.inputs.shape[1]} "
                f"floats where {self.model.inputs.shape[0]:,} of {self.model.inputs.shape[1]} "
                "are expected; begin a new run in another folder"
            )
        self.model.inputs[:] = saved.inputs
        self.model.outputs[:] = saved.outputs
        self.progress = Progress(chunks=saved.chunks, **saved.progress)

    def run(self, limits: Limits) -> str:
        """Train until the last pass is complete or a limit is reached; then it is saved.

        Returns:
            Why it ended: "done", "time" or "asked".

        Raises:
            DivergenceError: a loss or a weight is no number; what was saved before is good.
            CheckpointError: a state could not be written.
        """
        deadline = time.monotonic() + limits.seconds
        begun = self.progress.seconds, time.monotonic()

        def stop() -> bool:
            return limits.asked() or time.monotonic() >= deadline

        def report(chunk: ChunkReport) -> None:
            self.progress.seconds = begun[0] + time.monotonic() - begun[1]
            self.progress.chunks = chunk.done
            self.progress.loss = chunk.loss
            self._reporter.step(self._step(chunk))

        while not self.finished and not stop():
            first = self.progress.chunks
            last = (first // self._in_pass + 1) * self._in_pass
            begun = self.progress.seconds, time.monotonic()
            self.model.train(self._corpus, first, last, stop=stop, report=report)
            self.model.check(self._corpus, max(self.progress.chunks - 1, 0))
            complete = self.progress.chunks == last
            if complete:
                self._validate()
            if self._every_pass or not complete or self.finished:
                self._save()
        if self.finished:
            return "done"
        return "asked" if limits.asked() else "time"

    def _validate(self) -> None:
        if self._validation is None:
            return
        loss, pairs = self.model.loss(self._validation)
        if not pairs:
            self._reporter.note("the held-out text holds no two words of the vocabulary")
            return
        best = self.progress.best_loss is None or loss < self.progress.best_loss
        self.progress.validation_loss = loss
        if best:
            self.progress.best_loss = loss
        self._reporter.validation(ValidationReport(self.progress.chunks, loss, {}, best))

    def _save(self) -> None:
        progress: dict[str, Any] = asdict(self.progress)
        chunks = progress.pop("chunks")
        self._states.save(chunks, self.model.inputs, self.model.outputs, progress)

    def _step(self, chunk: ChunkReport) -> StepReport:
        now = self.progress.seconds
        self._speed.append((now, chunk.done))
        while len(self._speed) > 2 and self._speed[1][0] < now - _SPEED_SECONDS:
            self._speed.popleft()
        then, before = self._speed[0]
        chunks_per_second = (chunk.done - before) / (now - then) if now > then else 0.0
        return StepReport(
            step=chunk.done,
            loss=chunk.loss,
            learning_rate=chunk.learning_rate,
            tokens=self.words,
            seconds=now,
            tokens_per_second=chunks_per_second * self.words_per_chunk,
        )
