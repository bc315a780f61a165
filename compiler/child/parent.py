"""What a child does before anything else: it never outlives its parent, nor starves others.

    python -m compiler.child.parent PARENT PROGRAM ARGUMENT...

does it and becomes a program that cannot do it itself. (`preexec_fn` of subprocess could,
but is not safe in a process with threads.)
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_MOST_TO_GO: Final = 1000


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies; leave no core files.

    Where the machine's memory runs out, the kernel is to end this process before any other:
    what it works on is the least known. A change of user namespace undoes the first, so it
    comes after one.

    Args:
        parent: the process that started this one.

    Returns:
        False where that one is dead already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not every container lets a process say this of itself.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_MOST_TO_GO), encoding="ascii")
    return os.getppid() == parent


def limit_memory(limit: int) -> None:
    """Have every allocation fail that takes this process above a number of bytes.

    Counted is what it may write to: its heap, its stacks, anonymous mappings. A mapped
    model file is not.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main(arguments: list[str]) -> int:
    """Become a program; returns only if the parent is gone."""
    parent, *command = arguments
    if not die_with(int(parent)):
        return 1
    # A list of words that the compiler made; no shell.
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
