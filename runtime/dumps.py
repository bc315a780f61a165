"""The front holds prompts, answers and keys in memory: none of it may reach a core dump.

Whoever starts the appliance may allow core dumps (`ulimit -c`, a service manager), so it
forbids them to itself. Two locks, because a handler in `core_pattern` ignores the first.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Make this process leave no core dump, and closed to debuggers of the same user.

    Call it before the first key is read. Raises OSError where the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
