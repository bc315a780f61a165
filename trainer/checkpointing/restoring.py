"""What is checked before a checkpoint is restored: whose it is, and that it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainer.checkpointing.layout import complete_steps, folder_of
from trainer.checkpointing.state_file import STATE_NAME, FileDigest, RunState, read_state
from trainer.errors import CheckpointError

_SHOWN_DIFFERENCES: Final = 8
_MISSING: Final = object()


def check_recipe(folder: Path, state: RunState, recipe: Mapping[str, Any], digest: str) -> None:
    """Refuse a checkpoint that another recipe made.

    Args:
        folder: the checkpoint, for the message.
        state: what it says.
        recipe: the values that decide the result, by "section.key".
        digest: their digest.

    Raises:
        CheckpointError: naming the values that differ.
    """
    if state.recipe_digest == digest:
        return
    differing = [
        f"{key} was {_shown(state.recipe.get(key, _MISSING))}, "
        f"is {_shown(recipe.get(key, _MISSING))}"
        for key in sorted(state.recipe.keys() | recipe.keys())
        if state.recipe.get(key, _MISSING) != recipe.get(key, _MISSING)
    ]
    what = "; ".join(differing[:_SHOWN_DIFFERENCES]) or "the digests of the recipes differ"
    if len(differing) > _SHOWN_DIFFERENCES:
        what += f"; and {len(differing) - _SHOWN_DIFFERENCES} more"
    raise CheckpointError(
        f"{folder} was made by another recipe: {what}. Use that recipe to go on, or another "
        "output folder (-o) to begin anew"
    )


def verify_files(folder: Path, state: RunState, rank: int, world: int) -> None:
    """Compare this rank's share of the files with their digests; all ranks cover all files.

    Raises:
        CheckpointError: naming the file that differs, is missing, or is too many.
    """
    present = {path.name for path in folder.iterdir()}
    for name in sorted(present ^ {*state.files, STATE_NAME}):
        defect = "is missing" if name in state.files else "does not belong there"
        raise CheckpointError(f"{folder} is damaged: {name} {defect}")
    for name, expected in sorted(state.files.items())[rank::world]:
        if FileDigest.of(folder / name) != expected:
            raise CheckpointError(
                f"{folder} is damaged: {name} does not have the digest that {STATE_NAME} names"
            )


def advice(checkpoints: Path, damaged: Path) -> str:
    """Return which other checkpoint is whole, and how to go on from it."""
    for step in reversed(complete_steps(checkpoints)):
        folder = folder_of(checkpoints, step)
        if folder == damaged:
            continue
        try:
            verify_files(folder, read_state(folder), 0, 1)
        except (CheckpointError, OSError):
            continue
        return f"{folder} is good: move {damaged.name} elsewhere and run the same command again"
    return "There is no other good checkpoint here: begin anew, or restore a backup"


def _shown(value: Any) -> str:
    return "not set" if value is _MISSING else json.dumps(value, ensure_ascii=False)
