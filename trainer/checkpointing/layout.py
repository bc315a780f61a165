"""The folder of a run's checkpoints: names, what is complete, what is let go.

    checkpoints/step-00001000/            a complete checkpoint
    checkpoints/step-00001500.partial/    being written, or being removed; never read

A checkpoint is complete exactly if its folder has the name without `.partial`: it gets
that name, by renaming, when everything in it is on the disk, and loses it before anything
in it is removed. So whatever moment a run is killed at, what `complete` finds is whole.

The rules of retention (`superseded`) are pure and never name the newest or the best.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.checkpointing.files import flush_folder

PARTIAL: Final = ".partial"
_COMPLETE: Final = re.compile(r"step-([0-9]{8,12})")
_UNFINISHED: Final = re.compile(r"step-[0-9]{8,12}\.partial")


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """One complete checkpoint.

    Attributes:
        step: updates made when it was saved.
        folder: where it is.
        score: the validation figure, lower is better; None if there was none.
    """

    step: int
    folder: Path
    score: float | None = None


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return checkpoints / f"step-{step:08d}"


def complete_steps(checkpoints: Path) -> list[int]:
    """Return the steps with a complete checkpoint, in order; [] if there is no folder."""
    if not checkpoints.is_dir():
        return []
    matches = (_COMPLETE.fullmatch(entry.name) for entry in checkpoints.iterdir())
    return sorted(int(match[1]) for match in matches if match is not None)


def best_of(saved: Sequence[SavedCheckpoint]) -> SavedCheckpoint | None:
    """Return the one with the lowest score; of equals the earliest; None without scores."""
    scored = [
        (each.score, each.step, each)
        for each in saved
        if each.score is not None and math.isfinite(each.score)
    ]
    return min(scored)[2] if scored else None


def superseded(
    saved: Sequence[SavedCheckpoint], *, keep_last: int, keep_best: bool
) -> list[SavedCheckpoint]:
    """Return which checkpoints to let go: not the newest `keep_last`, nor the best."""
    ordered = sorted(saved, key=lambda each: each.step)
    best = best_of(saved) if keep_best else None
    return [each for each in ordered[: -max(1, keep_last)] if each != best]


def remove(folder: Path) -> None:
    """Remove a complete checkpoint: first its name, then its files."""
    doomed = folder.with_name(folder.name + PARTIAL)
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    flush_folder(folder.parent)
    shutil.rmtree(doomed)


def remove_unfinished(checkpoints: Path) -> None:
    """Remove what a killed run left half written or half removed."""
    for entry in checkpoints.iterdir():
        if _UNFINISHED.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
