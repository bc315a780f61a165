"""The folder in which a compilation works, kept when it is cut short and taken up again.

It lies beside the output, hidden, or where --work says, and belongs to one source in one state.
The same command run again finds what was finished; another source, or another version, begins
anew. It goes when the work is done.

    FOLDER/.lock             held while a process works here
    FOLDER/unfinished/       what is made; the only folder that is ever emptied
    FOLDER/unfinished/key    of which work: a digest over the source's files and all that decides

Refused: a folder that holds anything else, which is somebody's; one that another user owns or
may write to, and an `unfinished` that others may read.

Invariants: nothing is removed but `.lock`, `unfinished`, and the folder where that leaves it
empty; what has its final name in `unfinished` is whole (whoever writes there writes beside and
renames); only one process works in it; nobody else can read what is made there, which may hold
texts as tokens and as a model's answers to them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compiler.errors import WorkFolderError
from security.files import PRIVATE_FOLDER_MODE, PRIVATE_MODE, write_atomic
from security.strictjson import JsonValue, canonical

_INNER: Final = "unfinished"
_KEY_FILE: Final = "key"
_LOCK_FILE: Final = ".lock"
_KEY: Final = re.compile(rb"[0-9a-f]{64}")
# What a crash while the key was replaced leaves.
_STRAY: Final = re.compile(r"\.key\.[0-9a-f]{16}\.tmp")
_PRIVATE_UMASK: Final = 0o077
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def work_folder(path: Path, decides: Mapping[str, JsonValue]) -> Iterator[Path]:
    """Yield a folder in `path`, empty unless it belongs to the same work; remove it at the end.

    While it is open, all files that this process and its children make are their user's alone
    (the umask). After an error or an interruption it stays, if anything was made in it.

    Args:
        path: where; its parent must exist.
        decides: all that decides what is made in it.

    Raises:
        WorkFolderError: another process works in it, it is another user's, or it holds other files.
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=PRIVATE_FOLDER_MODE)
    with _opened(path) as folder, _locked(path, folder) as new:
        before = os.umask(_PRIVATE_UMASK)
        try:
            try:
                inner = _inner(path)
            except WorkFolderError:
                if new:
                    os.unlink(_LOCK_FILE, dir_fd=folder)
                raise
            _take(inner, decides)
            try:
                yield inner
            except BaseException:
                if {entry.name for entry in inner.iterdir()} <= {_KEY_FILE}:
                    _remove(path, folder)
                raise
            _remove(path, folder)
        finally:
            os.umask(before)


def holds_work(path: Path) -> bool:
    """Tell whether work of ours was left in a folder; False where there is no folder."""
    return _key_of(path / _INNER) is not None


def _remove(path: Path, folder: int) -> None:
    """Remove what is ours, and the folder if that leaves it empty."""
    shutil.rmtree(path / _INNER, ignore_errors=True)
    os.unlink(_LOCK_FILE, dir_fd=folder)
    with contextlib.suppress(OSError):
        path.rmdir()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Yield a descriptor of the folder, which is this user's and can be changed by no other."""
    try:
        descriptor = os.open(path, _FOLDER_FLAGS)
    except OSError as error:
        raise WorkFolderError(f"{path}: is in the way of the folder to work in") from error
    try:
        _require_own(path, os.fstat(descriptor), stat.S_IWGRP | stat.S_IWOTH, "write to")
        with os.scandir(descriptor) as entries:
            others = {entry.name for entry in entries} - {_LOCK_FILE, _INNER}
        if others:
            raise WorkFolderError(
                f"{path}: holds other files ({', '.join(sorted(others)[:3])!a}); work is done in "
                "a new folder or an empty one"
            )
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, folder: int) -> Iterator[bool]:
    """Hold the lock of an open folder; yield whether its file was made for that."""
    new = False
    try:
        try:
            lock = os.open(_LOCK_FILE, _LOCK_FLAGS | os.O_EXCL, PRIVATE_MODE, dir_fd=folder)
            new = True
        except FileExistsError:
            lock = os.open(_LOCK_FILE, _LOCK_FLAGS, PRIVATE_MODE, dir_fd=folder)
    except OSError as error:
        raise WorkFolderError(
            f"{path}: its {_LOCK_FILE} cannot be used: {error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed it when his work was done.
            current = os.stat(_LOCK_FILE, dir_fd=folder, follow_symlinks=False)
            held = os.fstat(lock).st_ino == current.st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise WorkFolderError(f"{path}: another compilation works here; wait for it")
        yield new
    finally:
        os.close(lock)


def _inner(path: Path) -> Path:
    """Return the folder for what is made: new, or left by work of ours."""
    inner = path / _INNER
    with contextlib.suppress(FileExistsError):
        inner.mkdir(mode=PRIVATE_FOLDER_MODE)
        return inner
    status = inner.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise WorkFolderError(f"{inner}: is in the way of the folder to work in")
    _require_own(inner, status, stat.S_IRWXG | stat.S_IRWXO, "read or write to")
    entries = {entry.name for entry in inner.iterdir() if not _STRAY.fullmatch(entry.name)}
    if entries and _key_of(inner) is None:
        raise WorkFolderError(
            f"{inner}: was not left by a compilation; name another folder to work in"
        )
    return inner


def _take(inner: Path, decides: Mapping[str, JsonValue]) -> None:
    """Make a folder this work's: as it is if it was before, else empty.

    The folder's own number is in the key, so that one that was packed and unpacked, by whoever
    may have filled it, is not taken for the one that was left here.
    """
    state: JsonValue = {"decides": dict(decides), "folder": str(inner.stat().st_ino)}
    key = hashlib.sha256(canonical(state)).hexdigest().encode()
    if _key_of(inner) == key:
        return
    for entry in inner.iterdir():
        if entry.name == _KEY_FILE:
            # The last to go: it says that the rest is ours.
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    write_atomic(inner / _KEY_FILE, key, mode=PRIVATE_MODE)


def _key_of(inner: Path) -> bytes | None:
    """Return the key of a folder, or None where there is no well-formed one."""
    file = inner / _KEY_FILE
    try:
        key = file.read_bytes() if stat.S_ISREG(file.lstat().st_mode) else b""
    except OSError:
        return None
    return key if _KEY.fullmatch(key) else None


def _require_own(path: Path, status: os.stat_result, forbidden: int, what: str) -> None:
    if status.st_uid != os.geteuid():
        raise WorkFolderError(f"{path}: belongs to another user; name another folder to work in")
    if status.st_mode & forbidden:
        raise WorkFolderError(
            f"{path}: other users may {what} it; take that from them (chmod go-rwx) or name "
            "another folder to work in"
        )
