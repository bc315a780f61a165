"""The system calls a worker may make: an allow-list, found by measurement.

Everything a worker does after loading its libraries is to read and write open
descriptors, map memory, start threads and wait. Whatever is not named here fails with
EPERM, so a call that a future library adds breaks loudly in tests and harms nobody in
production. `clone3` alone fails with ENOSYS: the filter cannot see its flags behind a
pointer, and glibc then falls back to `clone`, whose flags it can see.

Beyond the list of names, arguments are checked:
  - `clone` starts threads of this process only, in no new namespace
  - `mmap`, `mprotect` give no executable memory, so no new code can come in; mappings
    that RLIMIT_DATA does not count (shared anonymous, grow-down) are denied
  - signals reach this process only (`abort` needs that)
  - `prctl` names threads, `fcntl` asks for flags and seals, `prlimit64` only reads

Calls of another architecture (32-bit, x32) kill the process.
"""

from __future__ import annotations

import errno
import os
from typing import Any

_CLONE_THREAD = 0x0001_0000
_CLONE_SIGHAND = 0x0000_0800
_CLONE_VM = 0x0000_0100
# NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_NAMESPACES = 0x80 | 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x7000_0000
_THREAD = _CLONE_THREAD | _CLONE_SIGHAND | _CLONE_VM

_MAP_SHARED = 0x01
_MAP_ANONYMOUS = 0x20
_MAP_GROWSDOWN = 0x100
_PROT_EXEC = 0x4
_PROT_GROWS = 0x0300_0000
_O_ACCMODE = 0o3

_PR_SET_NAME = 15
_PR_GET_NAME = 16
_PR_SET_VMA = 0x5356_4D41

_F_DUPFD_CLOEXEC = 1030
_F_GET_SEALS = 1034
_F_GETFD, _F_SETFD, _F_GETFL = 1, 2, 3

ALLOWED = (
    # Open descriptors. Nothing that takes a path but `openat`: Landlock does not hide
    # whether a file exists, how large it is or where a link leads.
    "read", "write", "readv", "writev", "pread64", "lseek", "close", "fstat", "fadvise64",
    # Memory.
    "brk", "munmap", "mremap", "madvise", "mincore", "msync",
    # Threads, waiting, time.
    "futex", "set_robust_list", "get_robust_list", "rseq", "exit", "exit_group",
    "sched_yield", "sched_getaffinity", "gettid", "getpid", "getppid",
    "membarrier", "getcpu",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    "poll", "ppoll", "select", "pselect6",
    # About oneself and the machine.
    "getuid", "geteuid", "getgid", "getegid", "getrusage", "getrandom", "uname", "sysinfo",
)  # fmt: skip


def install() -> tuple[str, ...]:
    """Load the filter for this process; raises what the seccomp library raises."""
    import pyseccomp

    denied = pyseccomp.ERRNO(errno.EPERM)
    rules = pyseccomp.SyscallFilter(denied)
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    # Cover every thread, or fail.
    rules.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
    for name in ALLOWED:
        rules.add_rule(pyseccomp.ALLOW, name)
    _argument_rules(rules, pyseccomp)
    rules.load()
    return ("seccomp",)


def _argument_rules(rules: Any, seccomp: Any) -> None:
    allow, masked, equal, argument = (
        seccomp.ALLOW,
        seccomp.MASKED_EQ,
        seccomp.EQ,
        seccomp.Arg,
    )
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(allow, "clone", argument(0, masked, _THREAD | _CLONE_NAMESPACES, _THREAD))
    # Read-only opens: with Landlock in force only our own descriptors answer.
    for name, index in (("open", 1), ("openat", 2)):
        rules.add_rule(allow, name, argument(index, masked, _O_ACCMODE, os.O_RDONLY))
    no_exec = argument(2, masked, _PROT_EXEC, 0)
    for kind in (_MAP_ANONYMOUS, _MAP_SHARED):
        rules.add_rule(allow, "mmap", no_exec, argument(3, masked, kind | _MAP_GROWSDOWN, 0))
    rules.add_rule(allow, "mprotect", argument(2, masked, _PROT_EXEC | _PROT_GROWS, 0))
    rules.add_rule(allow, "tgkill", argument(0, equal, os.getpid()))
    for option in (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA):
        rules.add_rule(allow, "prctl", argument(0, equal, option))
    for command in (_F_DUPFD_CLOEXEC, _F_GET_SEALS, _F_GETFD, _F_SETFD, _F_GETFL):
        rules.add_rule(allow, "fcntl", argument(1, equal, command))
    # Process 0 is the caller; a null new limit only reads.
    rules.add_rule(allow, "prlimit64", argument(0, equal, 0), argument(2, equal, 0))
