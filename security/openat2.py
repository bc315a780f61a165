"""Opens files below a directory without following anything out of it: openat2(2).

Resolution happens in the kernel, in one call, under RESOLVE_BENEATH,
RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS, so no rename, link or symbolic link
placed at any moment leads the walk elsewhere. There is no fallback: a kernel older
than Linux 5.6, or a sandbox that hides the call, is an error, not a weaker check.

Python has no binding, hence a system call through ctypes (the number is 437 on
every architecture Linux has given openat2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

from security.errors import SecurityError

_SYS_OPENAT2: Final = 437
_KNOWN_MACHINES: Final = ("x86_64", "aarch64")
_AT_FDCWD: Final = -100

# linux/openat2.h
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_BENEATH: Final = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS

# O_NONBLOCK: a FIFO must not hang us before fstat can refuse it.
_COMMON: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def open_beneath(directory_fd: int, name: str, *, directory: bool = False) -> int:
    """Open `name` for reading, strictly below `directory_fd`; return a descriptor.

    The caller owns the descriptor, and checks with fstat what it has opened: a FIFO
    or a device opens without blocking.

    Raises:
        OSError: ELOOP for a symbolic link anywhere on the way, EXDEV for a way out,
            or whatever else the kernel says.
        SecurityError: this kernel does not offer openat2.
    """
    flags = _COMMON | (os.O_DIRECTORY if directory else 0)
    return _openat2(directory_fd, os.fsencode(name), flags, _BENEATH)


def open_root(path: str | os.PathLike[str]) -> int:
    """Open the directory at `path`, whose last component must not be a symbolic link.

    Symbolic links before the last component are the caller's own business: they are
    part of how the person who named the path reaches it.

    Raises:
        OSError: ENOTDIR or ELOOP for a symbolic link, or whatever else the kernel says.
        SecurityError: this kernel does not offer openat2.
    """
    # A trailing slash would make the kernel follow a final link.
    text = os.fsencode(path).rstrip(b"/") or b"/"
    return _openat2(_AT_FDCWD, text, _COMMON | os.O_DIRECTORY, _RESOLVE_NO_MAGICLINKS)


def _openat2(directory_fd: int, path: bytes, flags: int, resolve: int) -> int:
    if platform.machine() not in _KNOWN_MACHINES:
        raise SecurityError(f"opening bundles safely is unproven on {platform.machine()}")
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a path cannot hold NUL")
    how = _OpenHow(flags=flags, mode=0, resolve=resolve)
    while True:
        result = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(directory_fd),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if result >= 0:
            return int(result)
        code = ctypes.get_errno()
        # EAGAIN: a rename raced with the walk and the kernel could not be sure.
        if code in (errno.EINTR, errno.EAGAIN):
            continue
        if code == errno.ENOSYS:
            raise SecurityError("this kernel lacks openat2 (Linux 5.6 or later is needed)")
        raise OSError(code, os.strerror(code), os.fsdecode(path))
