"""Give up the network and most memory, then become a converter: python -m, in a process
of its own, with its parent, the memory in bytes, the script and its arguments.

The network goes first: an empty network namespace, or where the system does not allow one,
a filter that lets no socket be made. Where neither is possible it ends with NOT_ISOLATED
and runs nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from typing import Final

from compiler.child.parent import die_with

NOT_ISOLATED: Final = 70
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000


def leave_network() -> bool:
    """Keep this process and what it starts from any network; tell whether that worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        return True
    try:
        import pyseccomp
    except ImportError:
        return False
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.add_rule(pyseccomp.ERRNO(errno.EACCES), "socket")
    rules.load()
    return True


def main(arguments: list[str]) -> int:
    """Become the converter; returns only where that is not possible."""
    parent, memory_bytes, script, *rest = arguments
    if not leave_network():
        return NOT_ISOLATED
    if not die_with(int(parent)):
        return 1
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    # The converter brings its own packages; ours are none of its business.
    os.environ.pop("PYTHONPATH", None)
    # A list of words that the compiler made; no shell.
    os.execv(sys.executable, [sys.executable, script, *rest])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
