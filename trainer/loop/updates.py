"""Who makes the updates of a run: ordinary ones, or private ones.

The loop around them is the same. It tells whoever makes them where it begins and what a
checkpoint kept for them, and asks what the next checkpoint is to keep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from trainer.data.batch import DataSet
from trainer.data.loader import Loader
from trainer.distribution.group import Group
from trainer.loop.assembly import Assembly
from trainer.loop.batches import autocast
from trainer.loop.interrupts import StopReason
from trainer.loop.update import Updater, UpdateResult
from trainer.recipe.parse import LoadedRecipe


class Updates(Protocol):
    """Makes the updates of a run on one rank; every method is called by all ranks.

    Attributes:
        steps: updates of the whole run.
        train: what is learned from; its fingerprint says so in checkpoints.
        notes: what people must know before it begins.
    """

    steps: int
    train: DataSet
    notes: tuple[str, ...]

    def begin(self, step: int, kept: Mapping[str, Any] | None) -> None:
        """Get ready for the update number `step`; `kept` is what a checkpoint had."""

    def update(self, step: int, *, wants_stop: StopReason = "") -> UpdateResult:
        """Make one update."""
        ...

    def keep(self) -> dict[str, Any]:
        """Return what a checkpoint is to keep, JSON values."""
        ...

    def exported(self, final: Path, step: int) -> dict[str, Any]:
        """Add to the exported checkpoint what this kind of run adds; on the first rank.

        Args:
            final: the checkpoint, whole.
            step: the updates that its weights went through.

        Returns:
            What the summary of the run says of it, JSON values by name.
        """
        ...

    def close(self) -> None:
        """Let go of threads and files."""


class PlainUpdates:
    """Ordinary updates: nothing to keep, nothing to add."""

    def __init__(self, loaded: LoadedRecipe, group: Group, parts: Assembly) -> None:
        recipe = loaded.recipe
        self.steps = recipe.run.steps
        self.train = parts.data.train
        self.notes: tuple[str, ...] = ()
        self._loader = Loader(
            self.train,
            sequences=recipe.batch.sequences,
            micro_sequences=parts.micro_sequences,
            seed=recipe.run.seed,
            rank=group.rank,
            world=group.world,
            pin_memory=group.device.type == "cuda",
        )
        self._updater = Updater(
            parts.module,
            parts.optimizers,
            self._loader,
            group,
            recipe.optimizer,
            steps=self.steps,
            seed=recipe.run.seed,
            autocast=autocast(recipe.precision.dtype, group.device),
        )

    def begin(self, step: int, kept: Mapping[str, Any] | None) -> None:
        """See `Updates`."""

    def update(self, step: int, *, wants_stop: StopReason = "") -> UpdateResult:
        """See `Updates`."""
        return self._updater.update(step, wants_stop=wants_stop)

    def keep(self) -> dict[str, Any]:
        """See `Updates`."""
        return {}

    def exported(self, final: Path, step: int) -> dict[str, Any]:
        """See `Updates`."""
        del final, step
        return {}

    def close(self) -> None:
        """See `Updates`."""
        self._loader.close()


def make_updates(
    loaded: LoadedRecipe,
    output: Path,
    group: Group,
    parts: Assembly,
    tell: Callable[[str], None],
) -> Updates:
    """Return who makes the updates that a recipe asks for; `tell` is told what takes long.

    Raises:
        PrivacyError: a private run that cannot be claimed or accounted for.
    """
    if loaded.recipe.privacy.enabled:
        from trainer.privacy.session import PrivateUpdates

        return PrivateUpdates(loaded, output, group, parts, tell)
    return PlainUpdates(loaded, group, parts)


def with_train(parts: Assembly, train: DataSet) -> Assembly:
    """Return the same assembly with another training set."""
    return dataclasses.replace(parts, data=dataclasses.replace(parts.data, train=train))
