"""Writes one checkpoint of a run: steps 2 to 5 of `checkpointer`'s list.

It may run in a thread beside the training, so it touches nothing but what it was given:
staged tensors, a channel of its own, the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from trainer.checkpointing.dcp_metadata import DATA_FILE
from trainer.checkpointing.files import flush_folder, write_durably
from trainer.checkpointing.layout import (
    PARTIAL,
    SavedCheckpoint,
    complete_steps,
    folder_of,
    remove,
    superseded,
)
from trainer.checkpointing.state_file import STATE_NAME, FileDigest, RunState, read_state
from trainer.checkpointing.storage import METADATA_NAME, save_tensors
from trainer.checkpointing.together import together
from trainer.distribution.channel import Channel
from trainer.errors import CheckpointError
from trainer.recipe.schema import CheckpointOptions


def write_checkpoint(
    checkpoints: Path,
    state: RunState,
    tensors: Mapping[str, Tensor],
    channel: Channel,
    options: CheckpointOptions,
) -> None:
    """Write a checkpoint and let go of superseded ones; all ranks call it.

    Args:
        checkpoints: the folder of all checkpoints; it exists, and all ranks share it.
        state: everything but tensors; its `files` are filled in here.
        tensors: what `storage.save_tensors` takes.
        channel: used by nobody else meanwhile.
        options: the policy of retention.

    Raises:
        CheckpointError: it could not be written; the message names the last good one.
    """
    target = folder_of(checkpoints, state.step)
    partial = target.with_name(target.name + PARTIAL)
    first = channel.rank == 0
    try:
        together(channel, lambda: _prepare(partial) if first else None)
        save_tensors(dict(tensors), partial, channel)
        digests = together(channel, lambda: _digests(partial, channel.rank))
        files = {name: FileDigest(*entry) for each in digests for name, entry in each.items()}
        complete = replace(state, files=files)
        together(channel, lambda: _publish(partial, target, complete) if first else None)
    except CheckpointError as error:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(_failure(checkpoints, state.step, error)) from error
    together(channel, lambda: _let_go(checkpoints, options) if first else None)


def complete_checkpoints(checkpoints: Path) -> list[SavedCheckpoint]:
    """Return the complete checkpoints whose state can be read, by step."""
    found: list[SavedCheckpoint] = []
    for step in complete_steps(checkpoints):
        folder = folder_of(checkpoints, step)
        try:
            found.append(SavedCheckpoint(step, folder, read_state(folder).score))
        except CheckpointError:
            # Damaged: neither counted nor removed. Restoring it says what is wrong.
            continue
    return found


def _prepare(partial: Path) -> None:
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()


def _digests(partial: Path, rank: int) -> dict[str, tuple[str, int]]:
    """Return SHA-256 and size of the files that this rank has written (and flushed)."""
    digests: dict[str, tuple[str, int]] = {}
    for path in sorted(partial.iterdir()):
        match = DATA_FILE.fullmatch(path.name)
        own = int(match[1]) == rank if match is not None else rank == 0
        if own:
            file = FileDigest.of(path)
            digests[path.name] = (file.sha256, file.size_bytes)
    return digests


def _publish(partial: Path, target: Path, state: RunState) -> None:
    if METADATA_NAME not in state.files:
        raise CheckpointError(f"{partial} holds no {METADATA_NAME}")
    write_durably(partial / STATE_NAME, state.encode())
    flush_folder(partial)
    partial.rename(target)
    flush_folder(target.parent)


def _let_go(checkpoints: Path, options: CheckpointOptions) -> None:
    saved = complete_checkpoints(checkpoints)
    for old in superseded(saved, keep_last=options.keep_last, keep_best=options.keep_best):
        remove(old.folder)


def _failure(checkpoints: Path, step: int, error: CheckpointError) -> str:
    steps = complete_steps(checkpoints)
    try:
        free = f"{shutil.disk_usage(checkpoints).free / 1e6:,.0f} MB are free there"
    except OSError:
        free = "the folder cannot be looked at"
    kept = (
        f"the last good one is {folder_of(checkpoints, steps[-1])}"
        if steps
        else "there is no earlier one"
    )
    return (
        f"the checkpoint of step {step} could not be written: {error} ({free}); {kept}. Make "
        "room, then run the same command again"
    )
