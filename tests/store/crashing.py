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
from dataclasses import dataclass
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
        self._names: list[_Name] = []
        self._synced_bytes: dict[int, int] = {}
        # Closed with unsynced content: kept open, because the file may be renamed.
        self._closed: dict[int, int] = {}

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
        self._names.append(_Name(path))
        super().make_folder(path)

    def create(self, path: Path) -> int:
        self._names.append(_Name(path))
        descriptor = super().create(path)
        self._synced_bytes[descriptor] = 0
        return descriptor

    def open_append(self, path: Path) -> int:
        descriptor = super().open_append(path)
        self._synced_bytes[descriptor] = os.fstat(descriptor).st_size
        return descriptor

    def sync_file(self, descriptor: int) -> None:
        super().sync_file(descriptor)
        self._synced_bytes[descriptor] = os.fstat(descriptor).st_size

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._names = [name for name in self._names if name.path.parent != path]

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._moved(source, target)
        self._names.append(_Name(target, source))

    def close(self, descriptor: int) -> None:
        """Closing makes nothing durable."""
        synced = self._synced_bytes.pop(descriptor)
        if os.fstat(descriptor).st_size > synced:
            self._closed[descriptor] = synced
        else:
            super().close(descriptor)

    def cut(self, *, lose_unsynced: bool) -> None:
        """Take away what a power cut may take away."""
        if lose_unsynced:
            for descriptor, synced in (self._synced_bytes | self._closed).items():
                os.ftruncate(descriptor, synced)
            while self._names:
                self._lose(self._names.pop())
        for descriptor in self._closed:
            os.close(descriptor)
        self._closed.clear()

    def _lose(self, name: _Name) -> None:
        if not name.path.exists():
            return
        if name.source is not None:
            name.path.rename(name.source)
            self._moved(name.path, name.source)
        elif name.path.is_dir():
            shutil.rmtree(name.path)
        else:
            name.path.unlink()

    def _moved(self, source: Path, target: Path) -> None:
        """Names below a folder go with it."""
        for name in self._names:
            if name.path.is_relative_to(source):
                name.path = target / name.path.relative_to(source)


@dataclass
class _Name:
    """A name that no sync of its folder has made durable; `source` when it was renamed."""

    path: Path
    source: Path | None = None


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
