"""Durable writing, exclusive creation, and reading of files that hold keys."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from security.errors import KeyFileError, SecurityError
from security.files import (
    WatchedFile,
    create_exclusive,
    locked_folder,
    read_bounded,
    read_private,
    write_atomic,
)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.key"
    create_exclusive(path, b"secret")
    return path


def test_a_created_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_exclusive(tmp_path / "a.key", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert read_private(tmp_path / "a.key") == b"secret"


def test_creation_never_overwrites(key_file: Path) -> None:
    with pytest.raises(FileExistsError):
        create_exclusive(key_file, b"other")
    assert key_file.read_bytes() == b"secret"


def test_creation_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_exclusive(tmp_path / "link", b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_atomic_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    write_atomic(path, b"old")
    inode = path.stat().st_ino
    write_atomic(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["roots.pem"]


def test_a_failed_atomic_write_leaves_the_target_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    (target / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomic(target, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o610, 0o601])
def test_a_key_that_others_can_get_at_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_private(key_file)


def test_a_key_behind_a_symbolic_link_is_refused(key_file: Path) -> None:
    link = key_file.with_name("link.key")
    link.symlink_to(key_file)
    with pytest.raises(KeyFileError, match="symbolic link"):
        read_private(link)


def test_a_key_with_two_names_is_refused(key_file: Path) -> None:
    key_file.with_name("second.key").hardlink_to(key_file)
    with pytest.raises(KeyFileError, match="2 names"):
        read_private(key_file)


def test_a_key_of_another_user_is_refused(key_file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(key_file, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to user 12345"):
        read_private(key_file)


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.key", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        read_private(tmp_path / "a.key")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="not a regular file"):
        read_bounded(tmp_path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"absent\.key"):
        read_private(tmp_path / "absent.key")


def test_reading_is_bounded_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    assert len(read_bounded(tmp_path / "f", 100)) == 100
    with pytest.raises(SecurityError, match="larger than 99 bytes"):
        read_bounded(tmp_path / "f", 99)


def test_a_file_that_lies_about_its_size_is_still_bounded() -> None:
    with pytest.raises(SecurityError, match="larger than 10 bytes"):
        read_bounded(Path("/proc/self/status"), 10)


def test_a_lock_is_exclusive(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with locked_folder(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked_folder(tmp_path):
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def _number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError as error:
        raise SecurityError("no number") from error


class TestWatchedFile:
    def test_it_follows_a_replaced_file(self, tmp_path: Path) -> None:
        path = tmp_path / "n"
        write_atomic(path, b"1")
        watched = WatchedFile(path, _number)
        assert not watched.changed()
        write_atomic(path, b"2")
        assert watched.changed()
        assert watched.current() == 2
        assert watched.generation == 2

    def test_an_unchanged_file_is_not_parsed_again(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "n", b"1")
        watched = WatchedFile(tmp_path / "n", lambda data: object())
        assert watched.current() is watched.current()

    def test_bad_content_leaves_the_last_good_one_and_says_why(self, tmp_path: Path) -> None:
        path = tmp_path / "n"
        write_atomic(path, b"1")
        tried: list[bytes] = []

        def parse(data: bytes) -> int:
            tried.append(data)
            return _number(data)

        watched = WatchedFile(path, parse)
        write_atomic(path, b"bad")
        assert [watched.current(), watched.current()] == [1, 1]
        assert tried == [b"1", b"bad"], "each state of the file is tried once"
        assert "no number" in str(watched.error)
        write_atomic(path, b"3")
        assert watched.current() == 3
        assert watched.error is None

    def test_a_file_that_goes_and_comes_back(self, tmp_path: Path) -> None:
        path = tmp_path / "n"
        write_atomic(path, b"1")
        watched = WatchedFile(path, _number)
        path.unlink()
        assert watched.current() == 1
        assert watched.error is not None
        assert not watched.changed()
        write_atomic(path, b"2")
        assert watched.current() == 2

    def test_a_private_file_that_is_opened_to_others_is_not_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "n"
        write_atomic(path, b"1", 0o600)
        watched = WatchedFile(path, _number, private=True)
        write_atomic(path, b"2", 0o644)
        assert watched.current() == 1
        assert isinstance(watched.error, KeyFileError)

    def test_the_first_content_must_be_good(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "n", b"bad")
        with pytest.raises(SecurityError, match="no number"):
            WatchedFile(tmp_path / "n", _number)
        with pytest.raises(SecurityError, match="cannot read"):
            WatchedFile(tmp_path / "absent", _number)
