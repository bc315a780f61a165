"""Where a search keeps the files of its candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.tune.candidate import Candidate

_FOLDER: Final = "candidates"


def candidate_file(folder: Path, candidate: Candidate, suffix: str) -> Path:
    """Return where a candidate's file lies in a work folder; one file for one plan."""
    return folder / _FOLDER / f"{candidate.plan_digest[:24]}{suffix}"


def remove_made(folder: Path, candidate: Candidate, suffix: str) -> None:
    """Remove a candidate's file if it is there."""
    candidate_file(folder, candidate, suffix).unlink(missing_ok=True)
