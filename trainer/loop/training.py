"""A run from its first update, or from where it was left, to its last.

    update -> report -> (validate) -> (save) -> next update

Invariants: a checkpoint holds everything that decides what follows, so that a run that
was cut continues exactly as it would have gone on; a run that stops for any reason has
saved what it has, unless its weights are no numbers; every rank takes the same way
through the loop, since all decisions rest on figures that all ranks share.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from trainer.checkpointing.checkpointer import Checkpointer
from trainer.data.loader import Sweep
from trainer.distribution.group import Group
from trainer.errors import CheckpointError
from trainer.loop.batches import Autocast
from trainer.loop.devices import peak_memory_bytes
from trainer.loop.interrupts import StopReason, StopRequest
from trainer.loop.update import UpdateResult
from trainer.loop.updates import Updates
from trainer.loop.validation import Validation, validate
from trainer.optimization.optimizers import Optimizers
from trainer.optimization.stopping import EarlyStopping
from trainer.recipe.schema import Recipe
from trainer.reporting.mfu import model_flops_utilization
from trainer.reporting.reporter import Reporter, StepReport, ValidationReport

# Updates over which the speed that is shown is taken.
_SPEED_WINDOW = 20
_FOREIGN_PROGRESS = "the progress in the checkpoint is not what this version of the trainer writes"


@dataclass(slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: updates made.
        tokens: tokens read, over all ranks.
        seconds: time spent in updates, without validation and saving.
        best_step: the step whose validation was the best so far; -1 before the first.
        best_loss: its loss; None before the first.
        best_metrics: the figures beside it.
        train_loss: of the newest update; None before the first, or where it is no number.
        validated_step: the step of the newest validation; -1 before the first.
        validated_loss: its loss; None before the first.
        validated_metrics: the figures beside it.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = -1
    best_loss: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    train_loss: float | None = None
    validated_step: int = -1
    validated_loss: float | None = None
    validated_metrics: dict[str, float] = field(default_factory=dict)

    def figures_of(self, step: int) -> dict[str, float]:
        """Return the validation figures of a step's weights, as far as they are known."""
        for known, loss, metrics in (
            (self.validated_step, self.validated_loss, self.validated_metrics),
            (self.best_step, self.best_loss, self.best_metrics),
        ):
            if step == known and loss is not None:
                return {**metrics, "validation_loss": loss}
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        """Read what `to_json` returned.

        Raises:
            CheckpointError: it is of another version, or values have other types.
        """
        try:
            progress = cls(**data)
        except TypeError as problem:
            raise CheckpointError(_FOREIGN_PROGRESS) from problem
        whole = (progress.step, progress.tokens, progress.best_step, progress.validated_step)
        if not all(type(number) is int for number in whole) or progress.step < 0:
            raise CheckpointError(_FOREIGN_PROGRESS)
        return progress


@dataclass(frozen=True, slots=True)
class RunningTextFigures:
    """What turns a loss into figures of running text.

    Attributes:
        applies: whether targets are tokens of a text.
        bytes_per_token: of the validation text, where known.
        flops_per_token: of training; for MFU.
        device_name: of the accelerator; for MFU.
    """

    applies: bool
    bytes_per_token: float | None
    flops_per_token: float
    device_name: str


class Training:
    """Runs updates, validations and saves.

    Args:
        recipe: decides when.
        module: a `Step`, distributed.
        optimizers: over its parameters.
        updates: makes the updates.
        sweep: the validation set of this rank, or None.
        group: the ranks.
        checkpointer: keeps what is needed to resume.
        reporter: is told; only the first rank's does anything.
        autocast: makes the context of a forward pass.
        figures: what turns losses into figures.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        module: nn.Module,
        optimizers: Optimizers,
        updates: Updates,
        sweep: Sweep | None,
        group: Group,
        checkpointer: Checkpointer,
        reporter: Reporter,
        autocast: Autocast,
        figures: RunningTextFigures,
    ) -> None:
        self._recipe = recipe
        self._module = module
        self._optimizers = optimizers
        self._updates_of = updates
        self._sweep = sweep
        self._group = group
        self._checkpointer = checkpointer
        self._reporter = reporter
        self._autocast = autocast
        self._figures = figures
        # Kept in checkpoints, so that no run goes on with other data unnoticed.
        self._data_fingerprint = updates.train.fingerprint
        self._stopping = EarlyStopping(recipe.evaluation.patience)
        self._recent: deque[tuple[int, float]] = deque(maxlen=_SPEED_WINDOW)
        self._saved_step = -1
        self.progress = Progress()

    def resume(self, progress: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds beside the weights.

        Raises:
            CheckpointError: it is not what this version writes, or of other data.
        """
        try:
            data, values, stopping = progress["data"], progress["progress"], progress["stopping"]
        except KeyError as missing:
            raise CheckpointError(_FOREIGN_PROGRESS) from missing
        if data != self._data_fingerprint:
            raise CheckpointError(
                "the checkpoint was trained on other data than data.train holds now; restore "
                "the files, or begin a new run in another folder (-o)"
            )
        self.progress = Progress.from_json(values)
        self._stopping.restore(stopping)
        self._saved_step = self.progress.step

    def run(self, stop: StopRequest) -> str:
        """Run to the end; return why it ended: "done", "early", "time" or "asked"."""
        reason = self._updates(stop)
        # Who asks for a stop wants it soon; the checkpoint is what must not be lost.
        if reason != "asked" and self.progress.validated_step != self.progress.step:
            self._validate()
        self._save()
        self._checkpointer.wait()
        return reason

    def _updates(self, stop: StopRequest) -> str:
        run = self._recipe.run
        limit_seconds = run.max_minutes * 60 if run.max_minutes else math.inf
        began = time.monotonic()
        # A run that had stopped early, and was killed before its end, has still stopped.
        if self._stopped_early():
            return "early"
        while self.progress.step < self._updates_of.steps:
            started = time.perf_counter()
            wish = self._wish(stop, late=time.monotonic() - began >= limit_seconds)
            result = self._updates_of.update(self.progress.step, wants_stop=wish)
            self._report(result, time.perf_counter() - started)
            # Before a stop, too: an uncut run would have validated here.
            if self._due(self._recipe.evaluation.every_steps) and self._sweep is not None:
                improved = self._validate()
                if improved and self._recipe.checkpoint.keep_best:
                    self._save()
                if self._stopped_early():
                    return "early"
            if result.stop and self.progress.step < self._updates_of.steps:
                return result.stop
            if self._due(self._recipe.checkpoint.every_steps):
                self._save()
        return "done"

    def _stopped_early(self) -> bool:
        return self._stopping.should_stop

    def _wish(self, stop: StopRequest, *, late: bool) -> StopReason:
        """Return why this rank wants to stop; of the time one clock decides, rank 0's."""
        if stop.requested:
            return "asked"
        return "time" if late and self._group.is_first else ""

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens now; the end is apart."""
        step = self.progress.step
        return bool(every) and step % every == 0 and step < self._updates_of.steps

    def _report(self, result: UpdateResult, seconds: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.tokens += result.tokens
        progress.seconds += seconds
        # A private update may have a loss that is no number, which no checkpoint holds.
        progress.train_loss = result.loss if math.isfinite(result.loss) else None
        self._recent.append((result.tokens, seconds))
        speed = sum(t for t, _ in self._recent) / max(sum(s for _, s in self._recent), 1e-9)
        self._reporter.step(
            StepReport(
                step=progress.step,
                loss=result.loss,
                learning_rate=result.learning_rate,
                gradient_norm=result.gradient_norm,
                tokens=progress.tokens,
                seconds=progress.seconds,
                tokens_per_second=speed,
                mfu=model_flops_utilization(
                    speed,
                    self._figures.flops_per_token,
                    self._figures.device_name,
                    self._group.world,
                ),
                memory=peak_memory_bytes(self._group.device),
            )
        )

    def _validate(self) -> bool:
        """Validate, report, and return whether it is the best so far."""
        if self._sweep is None:
            return False
        outcome: Validation = validate(
            self._module,
            self._sweep,
            self._group,
            self._autocast,
            running_text=self._figures.applies,
            bytes_per_token=self._figures.bytes_per_token,
        )
        progress = self.progress
        improved = self._stopping.update(outcome.loss)
        if improved:
            progress.best_step, progress.best_loss = progress.step, outcome.loss
            progress.best_metrics = outcome.metrics
        progress.validated_step, progress.validated_loss = progress.step, outcome.loss
        progress.validated_metrics = outcome.metrics
        self._reporter.validation(
            ValidationReport(progress.step, outcome.loss, outcome.metrics, best=improved)
        )
        return improved

    def _save(self) -> None:
        """Save what is needed to go on from here, once."""
        progress = self.progress
        if self._saved_step == progress.step:
            return
        fresh = progress.validated_step == progress.step
        self._checkpointer.save(
            progress.step,
            self._module,
            self._optimizers.parts,
            {
                "progress": progress.to_json(),
                "stopping": self._stopping.state(),
                "data": self._data_fingerprint,
                **self._updates_of.keep(),
            },
            progress.validated_loss if fresh else None,
        )
        self._saved_step = progress.step
