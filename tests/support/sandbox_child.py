"""A child that closes the real sandbox and then tries what it must not be able to do.

Run as `python -m tests.support.sandbox_child forbidden|memory|threads|files|useful`; it
prints one JSON object. Each forbidden action reports the errno it failed with, or null
when it went through.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable

import pyseccomp

from runtime.worker.sandbox import SandboxLimits, enter

MEMORY_MIB = 256
OPEN_FILES = 32
_LIBC = ctypes.CDLL(None, use_errno=True)
_MAP_PRIVATE_ANONYMOUS = 0x22
_MAP_SHARED_ANONYMOUS = 0x21
_MAP_GROWSDOWN = 0x100
_PAGE = 4096


def _number(name: str) -> int:
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


def _call(name: str, *arguments: int | bytes | None) -> Callable[[], int]:
    """A system call by name; arguments are integers, byte strings or null pointers."""
    number = _number(name)

    def run() -> int:
        converted = [
            ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value)
            for value in arguments
        ]
        result: int = _LIBC.syscall(ctypes.c_long(number), *converted)
        if result == 0 and name in ("fork", "vfork", "clone"):
            os._exit(0)
        return result

    return run


_AT_FDCWD = -100
_PARENT = os.getppid()
_ADDRESS = struct.pack("=H2s4s8x", socket.AF_INET, b"\x00\x35", b"\x7f\x00\x00\x01")
_SCRATCH = ctypes.create_string_buffer(65536)
_BUFFER = ctypes.addressof(_SCRATCH)

FORBIDDEN: dict[str, Callable[[], int]] = {
    # Files.
    "read /etc/passwd": _call("openat", _AT_FDCWD, b"/etc/passwd", os.O_RDONLY),
    "open /etc/passwd by open": _call("open", b"/etc/passwd", os.O_RDONLY),
    "read its own source": _call("openat", _AT_FDCWD, __file__.encode(), os.O_RDONLY),
    "read the front's environment": _call(
        "openat", _AT_FDCWD, f"/proc/{_PARENT}/environ".encode(), os.O_RDONLY
    ),
    "write the front's memory": _call(
        "openat", _AT_FDCWD, f"/proc/{_PARENT}/mem".encode(), os.O_RDWR
    ),
    "write its own memory file": _call("openat", _AT_FDCWD, b"/proc/self/mem", os.O_RDWR),
    "list a directory": _call("openat", _AT_FDCWD, b"/", os.O_RDONLY | os.O_DIRECTORY),
    "create a file": _call("openat", _AT_FDCWD, b"/tmp/x", os.O_WRONLY | os.O_CREAT, 0o600),
    "create an unnamed file": _call("openat", _AT_FDCWD, b"/tmp", 0o20200000 | os.O_RDWR, 0o600),
    "open by openat2": _call("openat2", _AT_FDCWD, b"/etc/passwd", _BUFFER, 24),
    "look at a file": _call("stat", b"/etc/passwd", _BUFFER),
    "look at a file by newfstatat": _call("newfstatat", _AT_FDCWD, b"/etc/passwd", _BUFFER, 0),
    "follow a link": _call("readlink", b"/proc/self/exe", _BUFFER, 64),
    "make a directory": _call("mkdir", b"/tmp/sandbox-dir", 0o700),
    "remove a file": _call("unlink", b"/tmp/none"),
    "rename": _call("rename", b"/tmp/none", b"/tmp/other"),
    "link": _call("link", b"/etc/passwd", b"/tmp/link"),
    "symlink": _call("symlink", b"/etc/passwd", b"/tmp/symlink"),
    "truncate": _call("truncate", b"/tmp/none", 0),
    "chmod": _call("chmod", b"/tmp", 0o777),
    "chown": _call("chown", b"/tmp", 0, 0),
    "mknod": _call("mknod", b"/tmp/node", 0o60600, 0x800),
    "chdir": _call("chdir", b"/"),
    "chroot": _call("chroot", b"/tmp"),
    "mount": _call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "umount": _call("umount2", b"/tmp", 0),
    "pivot_root": _call("pivot_root", b"/", b"/"),
    "open by handle": _call("open_by_handle_at", _AT_FDCWD, _BUFFER, 0),
    "memory file": _call("memfd_create", b"x", 0),
    "secret memory": _call("memfd_secret", 0),
    "watch files": _call("inotify_init1", 0),
    # Network.
    "TCP socket": _call("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
    "UDP socket": _call("socket", socket.AF_INET, socket.SOCK_DGRAM, 0),
    "IPv6 socket": _call("socket", socket.AF_INET6, socket.SOCK_STREAM, 0),
    "raw socket": _call("socket", socket.AF_INET, socket.SOCK_RAW, 1),
    "unix socket": _call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "netlink socket": _call("socket", 16, socket.SOCK_RAW, 0),
    "packet socket": _call("socket", 17, socket.SOCK_RAW, 0),
    "vsock socket": _call("socket", 40, socket.SOCK_STREAM, 0),
    "socket pair": _call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, _BUFFER),
    "connect": _call("connect", 1, _ADDRESS, 16),
    "bind": _call("bind", 1, _ADDRESS, 16),
    "listen": _call("listen", 1, 1),
    "accept": _call("accept4", 1, None, None, 0),
    "send to an address": _call("sendto", 1, b"x", 1, 0, _ADDRESS, 16),
    "pass a descriptor": _call("sendmsg", 1, _BUFFER, 0),
    "receive a descriptor": _call("recvmsg", 1, _BUFFER, 0),
    # Processes.
    "fork": _call("fork"),
    "vfork": _call("vfork"),
    "clone a process": _call("clone", 17, 0, 0, 0, 0),
    "clone a thread in a new namespace": _call("clone", 0x0001_0900 | 0x1000_0000, 0, 0, 0, 0),
    "execve": _call("execve", b"/bin/true", None, None),
    "execveat": _call("execveat", _AT_FDCWD, b"/bin/true", None, None, 0),
    "ptrace the front": _call("ptrace", 16, _PARENT, 0, 0),
    "be traced": _call("ptrace", 0, 0, 0, 0),
    "read the front's memory": _call("process_vm_readv", _PARENT, _BUFFER, 1, _BUFFER, 1, 0),
    "write to the front's memory": _call("process_vm_writev", _PARENT, _BUFFER, 1, _BUFFER, 1, 0),
    "pidfd of the front": _call("pidfd_open", _PARENT, 0),
    "take a descriptor": _call("pidfd_getfd", 0, 1, 0),
    "signal the front": _call("kill", _PARENT, 0),
    "signal everyone": _call("kill", -1, 0),
    "tkill": _call("tkill", _PARENT, 0),
    "tgkill the front": _call("tgkill", _PARENT, _PARENT, 0),
    "queue a signal": _call("rt_sigqueueinfo", _PARENT, 10, _BUFFER),
    "own signals on a descriptor": _call("fcntl", 1, 8, _PARENT),
    "new session": _call("setsid"),
    "raise a limit": _call("prlimit64", 0, 7, _BUFFER, None),
    "look at the front's limits": _call("prlimit64", _PARENT, 7, None, _BUFFER),
    "become dumpable": _call("prctl", 4, 1, 0, 0, 0),
    "allow a tracer": _call("prctl", 0x59616D61, -1, 0, 0, 0),
    "personality": _call("personality", 0x0040000),
    # Rights.
    "setuid": _call("setuid", 0),
    "setgid": _call("setgid", 0),
    "setresuid": _call("setresuid", 0, 0, 0),
    "setgroups": _call("setgroups", 0, None),
    "capset": _call("capset", _BUFFER, _BUFFER),
    "new user namespace": _call("unshare", 0x1000_0000),
    "new network namespace": _call("unshare", 0x4000_0000),
    "enter a namespace": _call("setns", 0, 0),
    "another filter": _call("seccomp", 1, 0, _BUFFER),
    # The kernel.
    "bpf": _call("bpf", 0, _BUFFER, 64),
    "perf": _call("perf_event_open", _BUFFER, 0, -1, -1, 0),
    "userfaultfd": _call("userfaultfd", 0),
    "io_uring": _call("io_uring_setup", 1, _BUFFER),
    "add a key": _call("add_key", b"user", b"x", b"y", 1, -3),
    "keyctl": _call("keyctl", 0, -3, 0, 0, 0),
    "load a module": _call("init_module", _BUFFER, 1, b""),
    "load a module by descriptor": _call("finit_module", 0, b"", 0),
    "kexec": _call("kexec_load", 0, 0, None, 0),
    "reboot": _call("reboot", 0xFEE1DEAD, 672274793, 0, None),
    "set the clock": _call("clock_settime", 0, _BUFFER),
    "set the host name": _call("sethostname", b"x", 1),
    "kernel log": _call("syslog", 2, _BUFFER, 64),
    "ioctl": _call("ioctl", 0, 0x5412, b"x"),
    "shared memory": _call("shmget", 0, _PAGE, 0o1600),
    "message queue": _call("msgget", 0, 0o1600),
    "semaphores": _call("semget", 0, 1, 0o1600),
    "pipe": _call("pipe2", _BUFFER, 0),
    "splice": _call("splice", 0, None, 1, None, 1, 0),
    # Memory.
    "executable memory": _call("mmap", 0, _PAGE, 7, _MAP_PRIVATE_ANONYMOUS, -1, 0),
    "make memory executable": _call("mprotect", _BUFFER & ~(_PAGE - 1), _PAGE, 7),
    "shared anonymous memory": _call("mmap", 0, _PAGE, 3, _MAP_SHARED_ANONYMOUS, -1, 0),
    "growing memory": _call("mmap", 0, _PAGE, 3, _MAP_PRIVATE_ANONYMOUS | _MAP_GROWSDOWN, -1, 0),
    "lock memory": _call("mlock", _BUFFER, _PAGE),
}


def forbidden() -> dict[str, int | None]:
    outcomes: dict[str, int | None] = {}
    for name, action in FORBIDDEN.items():
        ctypes.set_errno(0)
        result = action()
        outcomes[name] = ctypes.get_errno() if result == -1 else None
    return outcomes


def memory() -> dict[str, int]:
    """Take memory, and use it, until there is no more."""
    kept: list[mmap.mmap] = []
    try:
        while len(kept) < 64 * MEMORY_MIB:
            block = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            block[::_PAGE] = b"x" * (len(block) // _PAGE)
            kept.append(block)
    except (MemoryError, OSError):
        pass
    return {"mib": len(kept)}


def threads() -> dict[str, int]:
    """Start threads until no more can be started."""
    release = threading.Event()
    started = 0
    try:
        while started < 4096:
            threading.Thread(target=release.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    release.set()
    return {"threads": started}


def files() -> dict[str, int]:
    """Open the one thing that can be opened until no more descriptors are given."""
    opened = 0
    try:
        while opened < 4096:
            os.open(f"/proc/self/fd/{_sealed}", os.O_RDONLY)
            opened += 1
    except OSError:
        pass
    return {"files": opened}


def useful() -> dict[str, object]:
    """What must still work: threads, memory, the model's descriptor, aborting oneself."""
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(sum(bytearray(1 << 20))))
    thread.start()
    thread.join()
    again = os.open(f"/proc/self/fd/{_sealed}", os.O_RDONLY)
    with mmap.mmap(again, 5, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
        content = bytes(mapped)
    return {"thread": seen == [0], "content": content.decode(), "layers": list(_layers)}


if __name__ == "__main__":
    _sealed = os.memfd_create("model")
    os.write(_sealed, b"model")
    actions: dict[str, Callable[[], object]] = {
        "forbidden": forbidden,
        "memory": memory,
        "threads": threads,
        "files": files,
        "useful": useful,
    }
    run = actions[sys.argv[1]]
    json.dumps({"warm": "up"})
    _layers = enter(SandboxLimits(MEMORY_MIB, OPEN_FILES))
    print(json.dumps(run()), flush=True)
    os._exit(0)
