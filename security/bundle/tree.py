"""Reads a bundle's directory: follows nothing, opens each file once, bounds everything.

`list_tree` says what is there; `open_file` opens one file and checks the descriptor;
`seal_file` copies it into sealed memory with its digest. All are relative to a
descriptor of the bundle's directory, so renaming the directory changes nothing.

What it refuses: symbolic links, hard links, FIFOs, sockets, devices, directories
that hold nothing, modes that let others write or anybody execute, names that
`security.signing.names` refuses, and more or larger files than `OpenLimits` allows.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from security.errors import BundleError
from security.memfile import FileChangedError, SealedCopy, copy_sealed
from security.openat2 import open_beneath, open_root
from security.signing.names import (
    SIGNATURE_NAMES,
    check_name,
    check_together,
    parents,
    printable,
)

# Regular files are rw-r--r-- at most and directories rwxr-xr-x at most.
FILE_MODES: Final = 0o644
DIRECTORY_MODES: Final = 0o755


@dataclass(frozen=True, slots=True)
class OpenLimits:
    """What opening a bundle may cost; every limit is inclusive.

    `max_files` also bounds the descriptors that an open bundle holds.
    """

    max_files: int = 256
    max_file_bytes: int = 16 << 30
    max_total_bytes: int = 32 << 30
    max_signature_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) < 1:
                raise ValueError(f"{limit.name} must be at least 1")


@contextmanager
def opened_root(path: Path) -> Iterator[int]:
    """Open the bundle's directory; the descriptor lives as long as the context.

    Raises:
        BundleError: it is missing, no directory, a symbolic link, or has a bad mode.
    """
    try:
        root_fd = open_root(path)
    except OSError as error:
        if path.is_symlink():
            raise BundleError("symlink", f"{path} is a symbolic link; name its target") from error
        raise _refused(error, str(path), missing="missing-bundle") from error
    try:
        _check_mode(os.fstat(root_fd), str(path), DIRECTORY_MODES)
        yield root_fd
    finally:
        os.close(root_fd)


def list_tree(root_fd: int, limits: OpenLimits, expected: frozenset[str] | None) -> frozenset[str]:
    """Return the names of all files; with `expected`, require the tree to be just that.

    Directories that `expected` does not imply are refused without being entered.

    Raises:
        BundleError: something is refused, extra, missing, or there is too much of it.
    """
    walk = _Walk(limits, expected)
    walk.directory(root_fd, "")
    if expected is not None:
        for name in sorted(expected - walk.found):
            raise BundleError("missing-file", f"{printable(name)} is signed but missing")
    check_together(walk.found)
    return frozenset(walk.found)


class _Walk:
    """One reading of a tree; what it found, and what it may find."""

    def __init__(self, limits: OpenLimits, expected: frozenset[str] | None) -> None:
        self.found: set[str] = set()
        self._max_files = limits.max_files + len(SIGNATURE_NAMES)
        self._files = expected
        self._directories = expected and {p for name in expected for p in parents(name)}

    def directory(self, directory_fd: int, prefix: str) -> None:
        """Read one directory, whose name with a slash is `prefix`, and those inside it."""
        empty = True
        try:
            with os.scandir(directory_fd) as scan:
                for entry in scan:
                    empty = False
                    self._entry(directory_fd, entry, prefix + entry.name)
        except OSError as error:
            raise _refused(error, printable(prefix), missing="changed") from error
        # With a signed list, the file that should be here is reported as missing.
        if empty and prefix and self._files is None:
            raise BundleError("empty-directory", f"{printable(prefix)} is empty; remove it")

    def _entry(self, parent_fd: int, entry: os.DirEntry[str], name: str) -> None:
        mode = entry.stat(follow_symlinks=False).st_mode
        _check_kind(mode, name)
        allowed = self._directories if stat.S_ISDIR(mode) else self._files
        if allowed is None:
            check_name(name)
        elif name not in allowed:
            kind = "directory" if stat.S_ISDIR(mode) else "file"
            raise BundleError(f"extra-{kind}", f"{printable(name)} is not covered by the signature")
        if stat.S_ISDIR(mode):
            self._enter(parent_fd, entry.name, name)
            return
        self.found.add(name)
        if len(self.found) > self._max_files:
            raise BundleError("too-many-files", f"more than {self._max_files} files")

    def _enter(self, parent_fd: int, component: str, name: str) -> None:
        try:
            inner_fd = open_beneath(parent_fd, component, directory=True)
        except OSError as error:
            raise _refused(error, printable(name), missing="changed") from error
        try:
            _check_mode(os.fstat(inner_fd), printable(name), DIRECTORY_MODES)
            self.directory(inner_fd, f"{name}/")
        finally:
            os.close(inner_fd)


def open_file(root_fd: int, name: str, max_bytes: int) -> tuple[int, int]:
    """Open a file of the bundle; return its descriptor, which the caller closes, and size.

    Every check is made on the descriptor that is returned.

    Raises:
        BundleError: "missing-file", "symlink", "special-file", "hard-link", "mode",
            "oversized", or "unreadable".
    """
    shown = printable(name)
    try:
        fd = open_beneath(root_fd, name)
    except OSError as error:
        raise _refused(error, shown, missing="missing-file") from error
    try:
        status = os.fstat(fd)
        _check_kind(status.st_mode, name)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError("special-file", f"{shown} is a directory, not a file")
        if status.st_nlink != 1:
            raise BundleError("hard-link", f"{shown} has {status.st_nlink} names; it may have one")
        _check_mode(status, shown, FILE_MODES)
        if status.st_size > max_bytes:
            raise BundleError(
                "oversized", f"{shown} has {status.st_size} bytes, more than {max_bytes}"
            )
    except BundleError:
        os.close(fd)
        raise
    return fd, status.st_size


def seal_file(root_fd: int, name: str, max_bytes: int) -> SealedCopy:
    """Open `name` once and copy it into sealed memory; the digest is the copy's.

    Raises:
        BundleError: as `open_file`; or "changed" when it is written to meanwhile.
    """
    fd, size = open_file(root_fd, name, max_bytes)
    try:
        return copy_sealed(fd, size, f"bundle:{name}"[:200])
    except FileChangedError as error:
        raise BundleError("changed", f"{printable(name)}: {error}") from error
    except OSError as error:
        raise BundleError("unreadable", f"{printable(name)}: {error.strerror}") from error
    finally:
        os.close(fd)


def read_small(root_fd: int, name: str, max_bytes: int) -> bytes:
    """Return a whole file of at most `max_bytes`, opened and checked as any other.

    Raises:
        BundleError: as `seal_file`.
    """
    fd, size = open_file(root_fd, name, max_bytes)
    try:
        with os.fdopen(fd, "rb") as file:
            data = file.read(size + 1)
    except OSError as error:
        raise BundleError("unreadable", f"{printable(name)}: {error.strerror}") from error
    if len(data) != size:
        raise BundleError("changed", f"{printable(name)}: it changed while it was read")
    return data


def _check_kind(mode: int, name: str) -> None:
    if stat.S_ISLNK(mode):
        raise BundleError("symlink", f"{printable(name)} is a symbolic link")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BundleError("special-file", f"{printable(name)} is a FIFO, a socket or a device")


def _check_mode(status: os.stat_result, shown: str, allowed: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed:
        raise BundleError(
            "mode", f"{shown} has mode {mode:04o}, at most {allowed:04o} is accepted: chmod it"
        )


def _refused(error: OSError, shown: str, *, missing: str) -> BundleError:
    match error.errno:
        case errno.ELOOP:
            return BundleError("symlink", f"{shown} is, or is reached by, a symbolic link")
        case errno.ENOENT:
            return BundleError(missing, f"{shown} does not exist")
        case errno.ENOTDIR:
            return BundleError("not-a-directory", f"{shown} is not a directory")
        case errno.ENXIO:
            return BundleError("special-file", f"{shown} is a socket or a device")
        case _:
            return BundleError("unreadable", f"{shown} cannot be opened: {error.strerror}")
