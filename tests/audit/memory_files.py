"""`Files` in memory, with the durability of a journalled file system, and its faults.

Each file has what the kernel shows and what the disk holds. Steps (everything
that changes something) are numbered; at a chosen step the layer raises an error
or `Crash`, before the step, after it, or half-way. After a crash `survivor` gives
the folder as it may look when the machine is up again.

A failed flush drops the bytes that it could not write: the kernel goes on to show
them, later flushes succeed without writing them, and a crash loses them. That is
what Linux does.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import Enum

from security.audit.files import AppendFile


class Crash(BaseException):
    """The machine stops; no handler of the code under test may run on."""


class When(Enum):
    BEFORE = "before"  # the step leaves no trace
    HALF = "half"  # half of its bytes
    AFTER = "after"  # the step is done, and then fails


class Survival(Enum):
    """What becomes of steps that were never made durable."""

    LOST = "lost"
    KEPT = "kept"
    TORN = "torn"  # half of the bytes that were not flushed; all names


@dataclass(frozen=True)
class Fault:
    step: int
    when: When
    crash: bool
    error: int = errno.ENOSPC


@dataclass
class Inode:
    shown: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    # Bytes from here on are not on the disk but can still be flushed.
    dirty_from: int = 0

    def flush(self) -> None:
        # Bytes that an earlier failed flush dropped stay dropped: a hole.
        hole = self.dirty_from - len(self.disk)
        self.disk += bytes(max(0, hole)) + self.shown[self.dirty_from :]
        self.dirty_from = len(self.shown)

    def drop_dirty(self) -> None:
        self.dirty_from = len(self.shown)


class MemoryFiles:
    def __init__(self, fault: Fault | None = None) -> None:
        self.steps = 0
        self.log: list[str] = []
        self._fault = fault
        self._shown: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}

    # Reading

    def read(self, name: str) -> bytes:
        if name not in self._shown:
            raise FileNotFoundError(name)
        return bytes(self._shown[name].shown)

    def names(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        found = (n.removeprefix(prefix) for n in self._shown if n.startswith(prefix))
        return sorted(name for name in found if "/" not in name)

    def contents(self) -> dict[str, bytes]:
        return {name: bytes(inode.shown) for name, inode in self._shown.items()}

    # Steps

    def write_synced(self, name: str, data: bytes) -> None:
        inode = Inode()
        when = self._step(f"write {name}")
        self._shown[name] = inode
        if when is When.HALF:
            inode.shown += data[: len(data) // 2]
            self._raise()
        inode.shown += data
        inode.flush()
        if when is When.AFTER:
            self._raise()

    def rename(self, source: str, target: str) -> None:
        when = self._step(f"rename {target}")
        self._shown[target] = self._shown.pop(source)
        if when is not None:
            self._raise()

    def remove(self, name: str) -> None:
        when = self._step(f"remove {name}")
        del self._shown[name]
        if when is not None:
            self._raise()

    def remove_folder(self, folder: str) -> None:
        if self._step(f"rmdir {folder}") is not None:
            self._raise()

    def sync_folder(self, folder: str) -> None:
        when = self._step(f"sync {folder or '.'}")
        mine = {n for n in {*self._shown, *self._durable} if n.rpartition("/")[0] == folder}
        for name in sorted(mine)[: len(mine) // 2 if when is When.HALF else None]:
            if name in self._shown:
                self._durable[name] = self._shown[name]
            else:
                del self._durable[name]
        if when is not None:
            self._raise()

    def open_append(self, name: str) -> AppendFile:
        return _MemoryAppendFile(self, name, self._shown[name])

    def _step(self, what: str) -> When | None:
        self.steps += 1
        self.log.append(what)
        if self._fault is None or self._fault.step != self.steps:
            return None
        if self._fault.when is When.BEFORE:
            self._raise()
        return self._fault.when

    def _raise(self) -> None:
        assert self._fault is not None
        if self._fault.crash:
            raise Crash
        raise OSError(self._fault.error, "injected")

    def set_fault(self, fault: Fault) -> None:
        self._fault = fault

    def clear_fault(self) -> None:
        self._fault = None

    # After a crash

    def survivor(self, survival: Survival) -> MemoryFiles:
        """The folder after the crash, on a machine without faults."""
        result = MemoryFiles()
        names = self._durable if survival is Survival.LOST else self._shown
        for name, inode in names.items():
            extra = inode.shown[inode.dirty_from :]
            if survival is Survival.LOST:
                extra = bytearray()
            elif survival is Survival.TORN:
                extra = extra[: len(extra) // 2]
            hole = bytes(max(0, inode.dirty_from - len(inode.disk))) if extra else b""
            content = inode.disk + hole + extra
            after = Inode(bytearray(content), bytearray(content), len(content))
            result._shown[name] = after
            result._durable[name] = after
        return result


class _MemoryAppendFile:
    def __init__(self, files: MemoryFiles, name: str, inode: Inode) -> None:
        self._files = files
        self._name = name
        self._inode = inode

    def append(self, data: bytes) -> None:
        when = self._files._step(f"append {self._name}")
        self._inode.shown += data[: len(data) // 2] if when is When.HALF else data
        if when is not None:
            self._files._raise()

    def sync(self) -> None:
        try:
            when = self._files._step(f"fdatasync {self._name}")
        except OSError:
            self._inode.drop_dirty()
            raise
        if when is When.HALF:
            inode = self._inode
            middle = (inode.dirty_from + len(inode.shown)) // 2
            inode.disk += inode.shown[inode.dirty_from : middle]
            inode.drop_dirty()
            self._files._raise()
        self._inode.flush()
        if when is not None:
            self._files._raise()

    def close(self) -> None:
        return None
