"""What a child does before anything else, so that it never outlives its parent.

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
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies; leave no core files.

    A change of user namespace undoes it, so it comes after one.

    Args:
        parent: the process that started this one.

    Returns:
        False where that one is dead already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return os.getppid() == parent


def main(arguments: list[str]) -> int:
    """Become a program; returns only if the parent is gone."""
    parent, *command = arguments
    if not die_with(int(parent)):
        return 1
    # A list of words that the compiler made; no shell.
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
