"""TensorBoard event files, in `tensorboard/` of the run folder.

Scalars only, and the recipe's digest and name as text: no histograms (they cost a
synchronisation with the device), no samples, no training text. A resumed run hides
the events it is about to make again (`purge_step`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.reporting.reporter import RunPlan, StepReport, ValidationReport, is_due

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
_FLUSH_SECONDS = 10


class TensorBoardReporter:
    """Writes figures as TensorBoard events."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._plan: RunPlan | None = None

    def start(self, plan: RunPlan) -> None:
        """Open an event file.

        Raises:
            OSError: the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._plan = plan
        self._writer = SummaryWriter(
            log_dir=str(plan.folder / FOLDER),
            purge_step=plan.first_step + 1 if plan.first_step else None,
            flush_secs=_FLUSH_SECONDS,
        )
        self._writer.add_text("recipe", f"{plan.name} {plan.recipe_digest}", plan.first_step)

    def step(self, report: StepReport) -> None:
        """Write an update's figures, if they are due."""
        if self._plan is None or not is_due(self._plan, report.step):
            return
        figures = {
            "train/loss": report.loss,
            "train/learning_rate": report.learning_rate,
            "train/gradient_norm": report.gradient_norm,
            "train/tokens": report.tokens,
            "speed/tokens_per_second": report.tokens_per_second,
            "speed/mfu": report.mfu,
            "memory/device_bytes": report.memory,
        }
        self._write(figures, report.step)

    def validation(self, report: ValidationReport) -> None:
        """Write a validation's figures."""
        figures = {f"validation/{name}": value for name, value in report.metrics.items()}
        self._write({**figures, "validation/loss": report.loss}, report.step)

    def note(self, text: str) -> None:
        """Notes are for the terminal and the record."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, figures: Mapping[str, float | None], step: int) -> None:
        if self._writer is None:
            return
        for name, value in figures.items():
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, step)
