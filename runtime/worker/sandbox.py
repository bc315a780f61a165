"""What a worker gives up before it parses a byte of a model: nearly everything.

`enter` puts these layers in force, in this order, and returns their names. A layer that
cannot be put in force raises SandboxError, unless the operator gave it up by name.

  1. session       own session; dies with the front; no core dump; not dumpable (no
                   ptrace, no /proc/<pid>/mem by others); killed before the front when
                   memory runs out
  2. rlimits       memory, files, file size, core size
  3. no_new_privs  an exec could not gain rights, even if one were possible
  4. landlock      no file system, no TCP, no abstract sockets, no signals to others
  5. seccomp       only the system calls that computing on open descriptors needs
                   (`syscalls.py`); everything else fails with EPERM

What bounds memory is RLIMIT_DATA: it counts every private writable mapping, so heap
and anonymous memory, and not the model's read-only pages. The ways around it, shared
anonymous and grow-down mappings and memory files, are closed by the seccomp layer.
RLIMIT_AS would count the mapped model and address space that glibc only reserves.
RLIMIT_NPROC counts all processes of a user and spares root, so it is seccomp that
denies new processes; threads are bounded by the memory that their stacks take.

Landlock covers the calling thread and those it starts later: `enter` refuses to run
when another thread exists already.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import SandboxError
from runtime.worker import syscalls

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_STACK_BYTES = 8 << 20
_OOM_SCORE_ADJUSTMENT = "500"


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What the sandboxed process may still take."""

    memory_limit_mib: int
    max_open_files: int
    # The process whose death must be this one's too; 0 for none.
    parent_pid: int = 0


def enter(limits: SandboxLimits, allow_missing: Collection[str] = ()) -> tuple[str, ...]:
    """Give everything up; returns the names of the layers now in force.

    There is no way back. Must be called while the process has a single thread.

    Raises:
        SandboxError: a layer cannot be put in force and is not in `allow_missing`.
    """
    # Whatever is wrong with a library is said when its layer is due.
    for library in ("py_landlock", "pyseccomp"):
        with suppress(Exception):
            importlib.import_module(library)
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads != 1:
        raise SandboxError("landlock", f"{threads} threads run already and would escape it")
    steps: tuple[tuple[str, Callable[[], tuple[str, ...]]], ...] = (
        ("session", lambda: _session(limits)),
        ("rlimits", lambda: _rlimits(limits)),
        ("no_new_privs", _no_new_privs),
        ("landlock", _landlock),
        ("seccomp", syscalls.install),
    )
    in_force: list[str] = []
    for layer, step in steps:
        try:
            in_force += step()
        # Each layer's library has errors of its own: any of them means "not in force".
        except Exception as error:
            if layer not in allow_missing:
                raise SandboxError(layer, str(error) or type(error).__name__) from error
    return tuple(in_force)


def _prctl(option: int, argument: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
    return result


def _prefer_for_oom_kill() -> None:
    """Ask the kernel to end this process before the front when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJUSTMENT, encoding="ascii")
    except OSError:
        # A preference, not a protection: a kernel without it changes nothing else.
        return


def _session(limits: SandboxLimits) -> tuple[str, ...]:
    if os.getsid(0) != os.getpid():
        os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the line above took effect.
    if limits.parent_pid and os.getppid() != limits.parent_pid:
        raise ProcessLookupError("the front is gone already")
    # Before the next line: what is not dumpable belongs to root in /proc.
    _prefer_for_oom_kill()
    _prctl(_PR_SET_DUMPABLE, 0)
    return ("session",)


def _rlimits(limits: SandboxLimits) -> tuple[str, ...]:
    memory_bytes = limits.memory_limit_mib << 20
    bounds = (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_NOFILE, limits.max_open_files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    )
    for kind, bound in bounds:
        resource.setrlimit(kind, (bound, bound))
    return ("rlimits",)


def _no_new_privs() -> tuple[str, ...]:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if _prctl(_PR_GET_NO_NEW_PRIVS, 0) != 1:
        raise OSError("the kernel did not keep the flag")
    return ("no_new_privs",)


def _landlock() -> tuple[str, ...]:
    """Deny the whole file system, and TCP and scopes where the kernel knows them."""
    from py_landlock import Landlock

    # Not strict: what an older kernel cannot deny here, the seccomp layer denies.
    ruleset = Landlock(strict=False)
    abi = int(ruleset.abi_version)
    ruleset.apply()
    layers = ["landlock"]
    if abi >= LANDLOCK_TCP_ABI:
        layers.append("landlock-tcp")
    if abi >= LANDLOCK_SCOPE_ABI:
        layers.append("landlock-scope")
    return tuple(layers)


LANDLOCK_TCP_ABI = 4
LANDLOCK_SCOPE_ABI = 6
