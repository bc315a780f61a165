"""Saves the state of a run so that it survives whatever ends the run, and restores it.

Every method is collective: all ranks call it, in the same order, and where one rank fails
all of them raise. What a crash at each moment of a save leaves behind:

1. copy tensors to CPU memory (asynchronous saves)   the checkpoints as they were
2. write them into step-N.partial, flushed           as they were, and a partial folder that
                                                     the next start removes
3. digest every file; write state.json, flushed      the same
4. rename to step-N, flush the folder                one more complete checkpoint
5. retention: rename superseded ones to .partial,    the newest and the best in any case
   then remove them

So killing a run at any moment loses the steps since the last completed save and nothing
else. At most one save is under way; the next waits for it. A failed one is reported by the
next call; the checkpoints before it stay.

It refuses to restore what another recipe made, what does not have its digests, and
whatever `storage` refuses.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainer.checkpointing.files import flush_folder
from trainer.checkpointing.layout import (
    SavedCheckpoint,
    best_of,
    complete_steps,
    folder_of,
    remove_unfinished,
)
from trainer.checkpointing.restoring import advice, check_recipe, verify_files
from trainer.checkpointing.state_file import RunState, read_state
from trainer.checkpointing.storage import load_tensors, read_metadata
from trainer.checkpointing.tensors import (
    Staging,
    check_model,
    load_optimizers,
    model_tensors,
    optimizer_targets,
    optimizer_tensors,
)
from trainer.checkpointing.together import together
from trainer.checkpointing.writing import complete_checkpoints, write_checkpoint
from trainer.distribution.group import Group
from trainer.distribution.wrap import release_weights
from trainer.errors import CheckpointError
from trainer.recipe.digest import deciding_values, recipe_digest
from trainer.recipe.schema import CheckpointOptions, Recipe

__all__ = ["Checkpointer", "SavedCheckpoint"]


class Checkpointer:
    """The checkpoints of one run; a context manager that waits for the last save."""

    def __init__(
        self, folder: Path, options: CheckpointOptions, group: Group, recipe: Recipe
    ) -> None:
        """Make the folder if needed, and remove what a killed run left unfinished in it.

        Args:
            folder: of all checkpoints; on several machines all must see the same one.
            options: what to keep, and whether to write beside the training.
            group: the ranks.
            recipe: what the run is; only checkpoints of the same are restored.

        Raises:
            CheckpointError: the folder cannot be made or cleaned.
        """
        self._folder = folder
        self._options = options
        self._group = group
        self._recipe = deciding_values(recipe)
        self._recipe_digest = recipe_digest(recipe)
        self._staging = Staging()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        together(group.control, self._prepare if group.is_first else _nothing)

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self._folder)
        flush_folder(self._folder)

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        progress: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """Save the state after `step` updates; a step that is saved already is not again.

        The state is that of the moment of the call: an asynchronous save copies it first.

        Args:
            step: updates made, 0 to 10^12 - 1.
            module: as `distribute` returned it.
            optimizers: one or more, which share no parameter.
            progress: what the loop wants back; JSON types, no NaN or infinity.
            score: the validation figure that decides which is best, lower is better.

        Raises:
            CheckpointError: it, or the asynchronous save before it, could not be written.
        """
        self.wait()
        if step in self._group.broadcast(complete_steps(self._folder)):
            return
        release_weights(module)
        moments, values = optimizer_tensors(module, optimizers)
        tensors: Mapping[str, Tensor] = {**model_tensors(module), **moments}
        state = RunState(
            step=step,
            world=self._group.world,
            # A figure that is no number is never the best.
            score=score if score is not None and math.isfinite(score) else None,
            recipe_digest=self._recipe_digest,
            recipe=self._recipe,
            progress=progress,
            optimizer_values=values,
            files={},
        )
        # What cannot be written is to fail here, with the caller on the stack.
        state.encode()
        if not self._options.asynchronous:
            self._write(state, tensors)
            self._raise_failure()
            return
        staged = self._staging.stage(tensors)
        self._thread = threading.Thread(
            target=self._write, args=(state, staged), name="casemate-checkpoint", daemon=True
        )
        self._thread.start()

    def _write(self, state: RunState, tensors: Mapping[str, Tensor]) -> None:
        try:
            write_checkpoint(self._folder, state, tensors, self._group.checkpoint, self._options)
        # Whatever it is, the main thread must learn of it.
        except BaseException as error:
            self._failure = error

    def wait(self) -> None:
        """Wait for a save that is under way.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def latest(self) -> SavedCheckpoint | None:
        """Return the newest complete checkpoint; None if there is none.

        Raises:
            CheckpointError: its state.json is damaged; the message names a good one.
        """
        self.wait()
        steps = self._group.broadcast(complete_steps(self._folder))
        if not steps:
            return None
        folder = folder_of(self._folder, steps[-1])
        score = together(self._group.control, lambda: self._score(folder))[0]
        return SavedCheckpoint(steps[-1], folder, score)

    def _score(self, folder: Path) -> float | None:
        try:
            return read_state(folder).score
        except CheckpointError as error:
            raise self._damaged(folder, error) from error

    def best(self) -> SavedCheckpoint | None:
        """Return the complete checkpoint with the lowest score; None if none has one."""
        self.wait()
        best = best_of(complete_checkpoints(self._folder)) if self._group.is_first else None
        found = self._group.broadcast(None if best is None else [best.step, best.score])
        if found is None:
            return None
        return SavedCheckpoint(found[0], folder_of(self._folder, found[0]), found[1])

    def restore(
        self,
        saved: SavedCheckpoint,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> dict[str, Any]:
        """Put weights and optimizer state back, and return the progress.

        The number of ranks and the strategy may differ from those that saved. Where this
        raises after it has begun to fill the module, the module is of no use any more.

        Raises:
            CheckpointError: it is damaged (the message names the file and a checkpoint that
                is good), of another recipe (what differs), or of another network.
        """
        self.wait()
        states: list[RunState] = []
        together(self._group.control, lambda: states.append(self._check(saved.folder)))
        state = states[0]
        together(self._group.control, lambda: self._load(saved.folder, state, module, optimizers))
        return dict(state.progress)

    def _check(self, folder: Path) -> RunState:
        try:
            state = read_state(folder)
            verify_files(folder, state, self._group.rank, self._group.world)
        except CheckpointError as error:
            raise self._damaged(folder, error) from error
        check_recipe(folder, state, self._recipe, self._recipe_digest)
        return state

    def _load(
        self,
        folder: Path,
        state: RunState,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        metadata = read_metadata(folder)
        release_weights(module)
        weights = model_tensors(module)
        check_model(weights, metadata)
        moments = optimizer_targets(module, optimizers, metadata)
        load_tensors({**weights, **moments}, folder)
        load_optimizers(module, optimizers, moments, state.optimizer_values)

    def _damaged(self, folder: Path, error: CheckpointError) -> CheckpointError:
        return CheckpointError(f"{error}. {advice(self._folder, folder)}")

    def close(self) -> None:
        """Wait for the last save.

        Raises:
            CheckpointError: it could not be written.
        """
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif self._thread is not None:
            # What ended the run is the error to tell; the save may still succeed.
            self._thread.join()


def _nothing() -> None:
    """What the ranks do that have nothing to do."""
