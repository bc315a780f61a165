"""Progress on the terminal, on the standard error stream.

On a terminal: one live line with a bar, redrawn at most ten times a second, and a
permanent line for each validation and note. Without one (a log file, a batch system):
a plain line every `log_every_steps` steps, so that a log stays short and can be
searched. Figures only, never training text. Control characters (in the name of a file,
say) are shown as U+FFFD: they could drive the terminal.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from casemate.pages import numbers
from trainer.reporting.reporter import RunPlan, StepReport, ValidationReport, is_due

# Weight of the newest loss in the smoothed one: about the last 20 reports.
_SMOOTHING = 0.1
# The time left is estimated from so many of the latest reports.
_PACE_REPORTS = 50


class TerminalReporter:
    """Shows a run to who started it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._plan: RunPlan | None = None
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._loss: float | None = None
        self._validation: ValidationReport | None = None
        self._pace: deque[tuple[int, float]] = deque(maxlen=_PACE_REPORTS)

    def start(self, plan: RunPlan) -> None:
        """Say what is about to run; begin the live line if there is a terminal."""
        self._plan = plan
        self._say(_heading(plan))
        if plan.first_step:
            self._say(Text(f"Resumed after step {plan.first_step:,}.", style="dim"))
        if self._console.is_terminal:
            position = len(f"{plan.steps:,}/{plan.steps:,}")
            self._progress = Progress(
                TextColumn(
                    "[bold]{task.completed:,.0f}[/]/{task.total:,.0f}",
                    table_column=Column(no_wrap=True, min_width=position),
                ),
                BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
                TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
                console=self._console,
                expand=True,
                transient=True,
                # What a command prints as its result must not end up among the progress.
                redirect_stdout=False,
            )
            self._task = self._progress.add_task(
                "", total=plan.steps, completed=plan.first_step, figures="starting"
            )
            self._progress.start()

    def step(self, report: StepReport) -> None:
        """Move the live line, or write a plain one if it is due."""
        if self._plan is None:
            return
        self._smooth(report.loss)
        self._pace.append((report.step, report.seconds))
        if self._progress is not None:
            self._progress.update(
                self._task, completed=report.step, figures=" ".join(self._figures(report))
            )
        elif is_due(self._plan, report.step):
            width = len(str(self._plan.steps))
            position = f"step {report.step:>{width}}/{self._plan.steps}"
            self._say(Text("  ".join((position, *self._figures(report)))))

    def validation(self, report: ValidationReport) -> None:
        """Write the figures of a validation."""
        self._validation = report
        shown = [f"validation after step {report.step:,}: loss {report.loss:.4f}"]
        shown += [
            f"{name.replace('_', ' ')} {numbers.figure(value)}"
            for name, value in report.metrics.items()
            if name != "loss"
        ]
        line = Text("  ".join(shown), style="bold" if report.best else "")
        if report.best:
            line.append("  (best)", style="green")
        self._say(line)

    def note(self, text: str) -> None:
        """Write a note."""
        self._say(Text(_shown(text), style="yellow"))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the live line; whoever started the run prints the summary."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _smooth(self, loss: float) -> None:
        if self._loss is None or not math.isfinite(loss + self._loss):
            self._loss = loss
        else:
            self._loss += _SMOOTHING * (loss - self._loss)

    def _figures(self, report: StepReport) -> list[str]:
        shown = [f"loss {self._loss:.4f}" if self._loss is not None else ""]
        if self._validation is not None:
            shown.append(f"val {self._validation.loss:.4f}")
        shown.append(f"{numbers.count(report.tokens_per_second)} tok/s")
        if report.mfu is not None:
            shown.append(f"MFU {numbers.percent(report.mfu)}")
        left = self._seconds_left(report)
        if left is not None:
            shown.append(f"ETA {numbers.clock(left)}")
        # Last: what a narrow terminal cuts off.
        shown.append(f"lr {report.learning_rate:.2e}")
        return shown

    def _seconds_left(self, report: StepReport) -> float | None:
        first_step, first_seconds = self._pace[0]
        made = report.step - first_step
        if self._plan is None or made <= 0 or report.step >= self._plan.steps:
            return None
        return (self._plan.steps - report.step) * (report.seconds - first_seconds) / made

    def _say(self, line: Text) -> None:
        # Text, not markup: a bracket in a note or a label is only a bracket. No wrapping:
        # a log line stays one line.
        self._console.print(line, soft_wrap=True)


def _shown(text: str) -> str:
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _heading(plan: RunPlan) -> Text:
    size = f"{numbers.count(plan.parameters)} parameters"
    if plan.trainable != plan.parameters:
        size += f" ({numbers.count(plan.trainable)} trainable)"
    where = plan.device
    if plan.ranks > 1:
        where += f", {plan.ranks} ranks ({plan.strategy})"
    facts = [f"{plan.family} / {plan.objective}", size, where, plan.dtype, f"{plan.steps:,} steps"]
    if plan.tokens_per_step is not None:
        facts.append(f"{numbers.count(plan.tokens_per_step)} tokens a step")
    return Text.assemble((_shown(plan.name), "bold"), "  ", " · ".join(map(_shown, facts)))
