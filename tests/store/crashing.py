"""File systems that fail on purpose, over a real folder.

`PowerCutFilesystem` stops the world at a chosen step, before it, in the middle of it
or after it; `cut` then takes away what was never synced, so that a missing fsync is
a failing test. `FullFilesystem` refuses one step with an OSError and goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from runtime.store.filesystem import RealFilesystem


class PowerCut(BaseException):
    """The machine is off. No handler for ordinary errors may catch this."""


class StepFilesystem(RealFilesystem):
    """Counts the steps; `_step` decides what happens at each."""

    def __init__(self) -> None:
        self.steps = 0

    def _step(self, action: Callable[[], None], half: Callable[[], None] | None = None) -> None:
        raise NotImplementedError

    def make_folder(self, path: Path) -> None:
        self._step(lambda: super(StepFilesystem, self).make_folder(path))

    def create(self, path: Path) -> int:
        made: list[int] = []
        self._step(lambda: made.append(super(StepFilesystem, self).create(path)))
        return made[0]

    def write(self, descriptor: int, data: bytes) -> None:
        self._step(
            lambda: super(StepFilesystem, self).write(descriptor, data),
            lambda: super(StepFilesystem, self).write(descriptor, data[: len(data) // 2]),
        )

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._step(lambda: super(StepFilesystem, self).truncate(descriptor, size_bytes))

    def sync_file(self, descriptor: int) -> None:
        self._step(lambda: None)  # what is synced is tracked, not waited for

    def sync_folder(self, path: Path) -> None:
        self._step(lambda: None)

    def rename(self, source: Path, target: Path) -> None:
        self._step(lambda: super(StepFilesystem, self).rename(source, target))

    def remove_tree(self, path: Path) -> None:
        self._step(lambda: super(StepFilesystem, self).remove_tree(path))


class PowerCutFilesystem(StepFilesystem):
    """Switches off at step `stop_at` (from 0 once armed), at `moment`.

    moment: "before" the step, with "half" of a write done, or "after" it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stop_at: int | None = None
        self.moment = "before"
        self._off = False
        self._unsynced_names: list[tuple[Path, Callable[[], None]]] = []
        self._synced_bytes: dict[int, int] = {}
        self._paths: dict[int, Path] = {}

    def arm(self, stop_at: int, moment: str) -> None:
        self.stop_at, self.moment, self.steps = stop_at, moment, 0

    def _step(self, action: Callable[[], None], half: Callable[[], None] | None = None) -> None:
        if self._off:
            raise PowerCut
        here = self.stop_at is not None and self.steps == self.stop_at
        self.steps += 1
        if not here:
            action()
            return
        self._off = True
        if self.moment == "half" and half is not None:
            half()
        elif self.moment == "after":
            action()
        raise PowerCut

    def make_folder(self, path: Path) -> None:
        self._unsynced_names.append((path.parent, lambda: shutil.rmtree(path, ignore_errors=True)))
        super().make_folder(path)

    def create(self, path: Path) -> int:
        self._unsynced_names.append((path.parent, lambda: path.unlink(missing_ok=True)))
        descriptor = super().create(path)
        self._paths[descriptor], self._synced_bytes[descriptor] = path, 0
        return descriptor

    def open_append(self, path: Path) -> int:
        descriptor = super().open_append(path)
        self._paths[descriptor] = path
        self._synced_bytes[descriptor] = os.fstat(descriptor).st_size
        return descriptor

    def sync_file(self, descriptor: int) -> None:
        super().sync_file(descriptor)
        self._synced_bytes[descriptor] = os.fstat(descriptor).st_size

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._unsynced_names = [item for item in self._unsynced_names if item[0] != path]

    def rename(self, source: Path, target: Path) -> None:
        def undo() -> None:
            if target.exists():
                target.rename(source)

        self._unsynced_names.append((target.parent, undo))
        super().rename(source, target)

    def close(self, descriptor: int) -> None:
        """Closing loses nothing: what was not synced stays in danger under its path."""
        path, synced = self._paths.pop(descriptor), self._synced_bytes.pop(descriptor)
        if os.fstat(descriptor).st_size > synced:
            self._unsynced_names.append((path, lambda: _cut(path, synced)))
        super().close(descriptor)

    def cut(self, *, lose_unsynced: bool) -> None:
        """Take away what a power cut may take away."""
        if not lose_unsynced:
            return
        for descriptor, path in self._paths.items():
            _cut(path, self._synced_bytes[descriptor])
        for _, undo in reversed(self._unsynced_names):
            undo()


class FullFilesystem(StepFilesystem):
    """Refuses step `refuse_at` with an error, half of a write done; then works again."""

    def __init__(self, code: int = errno.ENOSPC) -> None:
        super().__init__()
        self.refuse_at: int | None = None
        self._code = code

    def arm(self, refuse_at: int) -> None:
        self.refuse_at, self.steps = refuse_at, 0

    def _step(self, action: Callable[[], None], half: Callable[[], None] | None = None) -> None:
        here = self.refuse_at is not None and self.steps == self.refuse_at
        self.steps += 1
        if not here:
            action()
            return
        if half is not None:
            half()
        raise OSError(self._code, os.strerror(self._code))


def _cut(path: Path, size_bytes: int) -> None:
    if path.exists():
        os.truncate(path, size_bytes)
