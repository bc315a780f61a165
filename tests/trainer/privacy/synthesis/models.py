"""Tiny checkpoints with a privacy.json about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainer.evaluation.checkpoints import make
from tests.trainer.privacy.reports import report
from trainer.privacy.record import write_report


def private(folder: Path, task: str = "decoder", **changes: Any) -> Path:
    """Export a tiny checkpoint of a task with a report about it."""
    made = make(task).export(folder)
    write_report(made, report(made, **changes))
    return made
