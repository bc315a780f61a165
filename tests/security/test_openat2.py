"""Opening strictly beneath a directory: no way out, no link, no fallback."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from security import openat2
from security.errors import SecurityError
from security.openat2 import open_beneath, open_root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_bytes(b"content")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to("inner/file")
    (folder / "out").symlink_to("../secret")
    (folder / "inner-link").symlink_to("inner")
    (folder / "magic").symlink_to("/proc/self/fd/0")
    return folder


@pytest.fixture
def root(folder: Path) -> Iterator[int]:
    fd = open_root(folder)
    yield fd
    os.close(fd)


def test_a_file_beneath_is_opened_close_on_exec_and_for_reading(root: int) -> None:
    fd = open_beneath(root, "inner/file")
    try:
        assert os.read(fd, 100) == b"content"
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError):
            os.write(fd, b"x")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("link", errno.ELOOP),
        ("out", errno.ELOOP),
        ("magic", errno.ELOOP),
        ("inner-link/file", errno.ELOOP),
        ("../secret", errno.EXDEV),
        ("inner/../../secret", errno.EXDEV),
        ("/etc/passwd", errno.EXDEV),
        ("nowhere", errno.ENOENT),
        ("inner/file/x", errno.ENOTDIR),
        ("", errno.ENOENT),
        ("inner\0/file", errno.EINVAL),
    ],
)
def test_everything_else_is_refused_by_the_kernel(name: str, code: int, root: int) -> None:
    with pytest.raises(OSError) as refusal:
        open_beneath(root, name)
    assert refusal.value.errno == code


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}//"])
def test_a_root_that_is_a_link_is_refused(spelling: str, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "root-link"
    link.symlink_to(folder)
    with pytest.raises(OSError):
        open_root(spelling.format(link))


def test_a_root_reached_by_a_link_is_the_callers_business(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "way"
    link.symlink_to(folder)
    os.close(open_root(link / "inner"))


def test_a_fifo_does_not_block(root: int, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    os.close(open_beneath(root, "pipe"))


def test_without_openat2_nothing_is_opened(
    root: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A system call number that no kernel has: what an old kernel answers to 437.
    monkeypatch.setattr(openat2, "_SYS_OPENAT2", 9_999)
    with pytest.raises(SecurityError, match="openat2"):
        open_beneath(root, "inner/file")
    with pytest.raises(SecurityError, match="openat2"):
        open_root(folder)


def test_on_an_unproven_machine_nothing_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "alpha")
    with pytest.raises(SecurityError, match="alpha"):
        open_root(folder)
