"""The work folder: whose it is, what is removed of it, who can read it, what is used again."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.bundling.keeping import is_kept, keep
from compiler.bundling.workfolder import holds_work, work_folder
from compiler.errors import SourceError, WorkFolderError

WORK = {"source": "1"}
KEY = "0" * 64


class CutShortError(Exception):
    """What ends work before it is done."""


def cut_short(path: Path) -> bool:
    """Work in a folder and fail; return whether earlier work was there."""
    found = False
    with contextlib.suppress(CutShortError), work_folder(path, dict(WORK)) as work:
        found = (work / "made").exists()
        (work / "made").write_text("x")
        raise CutShortError
    return found


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def folder_of_the_user(path: Path) -> None:
    (path / "photos").mkdir(parents=True)
    (path / "photos" / "a.jpg").write_text("precious")
    (path / "thesis.tex").write_text("precious")


def with_a_key_of_its_own(path: Path) -> None:
    folder_of_the_user(path)
    (path / "key").write_text(KEY)
    (path / ".lock").touch()


def with_an_unfinished_of_its_own(path: Path) -> None:
    (path / "unfinished").mkdir(mode=0o700, parents=True)
    (path / "unfinished" / "symphony").write_text("precious")


def with_a_key_that_is_none(path: Path) -> None:
    with_an_unfinished_of_its_own(path)
    (path / "unfinished" / "key").write_text("of the front door")


@pytest.mark.parametrize(
    "made",
    [
        folder_of_the_user,
        with_a_key_of_its_own,
        with_an_unfinished_of_its_own,
        with_a_key_that_is_none,
    ],
)
def test_a_folder_of_the_users_is_refused_and_left_as_it_was(
    made: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "mine"
    made(path)
    before = {p: p.read_text() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(WorkFolderError, match="folder"), work_folder(path, WORK):
        pytest.fail("it was taken")
    assert {p: p.read_text() for p in path.rglob("*") if p.is_file()} == before
    assert not holds_work(path)


def test_a_folder_is_told_to_hold_work_that_was_left(tmp_path: Path) -> None:
    assert not holds_work(tmp_path / "w")
    cut_short(tmp_path / "w")
    assert holds_work(tmp_path / "w")


def test_what_comes_into_the_folder_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with work_folder(path, WORK) as work:
        (work / "model").write_text("x")
        (path / "thesis.tex").write_text("precious")
    assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]


def test_a_link_and_a_file_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(SourceError, match="in the way"), work_folder(tmp_path / name, WORK):
            pytest.fail("it was taken")
    assert list((tmp_path / "real").iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "w", tmp_path / "victim"
    path.mkdir(mode=0o700)
    (path / ".lock").symlink_to(victim)
    with pytest.raises(SourceError, match="cannot be used"), work_folder(path, WORK):
        pytest.fail("it was taken")
    assert not victim.exists()


def test_an_unfinished_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "w", tmp_path / "other"
    path.mkdir(mode=0o700)
    other.mkdir(mode=0o700)
    (other / "key").write_text(KEY)
    (other / "a").touch()
    (path / "unfinished").symlink_to(other)
    with pytest.raises(SourceError, match="in the way"), work_folder(path, WORK):
        pytest.fail("it was taken")
    assert (other / "a").exists()


@pytest.mark.parametrize(("name", "mode"), [("", 0o770), ("", 0o702), ("unfinished", 0o750)])
def test_work_that_others_could_have_put_there_is_not_believed(
    name: str, mode: int, tmp_path: Path
) -> None:
    path = tmp_path / "w"
    cut_short(path)
    (path / name).chmod(mode)
    with pytest.raises(SourceError, match="other users may"), work_folder(path, WORK):
        pytest.fail("it was taken")


def test_work_of_another_user_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w"
    cut_short(path)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(SourceError, match="another user"), work_folder(path, WORK):
        pytest.fail("it was taken")


def test_work_that_was_packed_and_unpacked_begins_anew(tmp_path: Path) -> None:
    cut_short(tmp_path / "w")
    shutil.copytree(tmp_path / "w", tmp_path / "unpacked")
    assert not cut_short(tmp_path / "unpacked")
    assert cut_short(tmp_path / "unpacked")
    assert cut_short(tmp_path / "w")


def test_an_empty_folder_of_the_users_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.mkdir(mode=0o755)
    assert [cut_short(path), cut_short(path)] == [False, True]


def test_nobody_else_reads_what_is_made_there(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = tmp_path / "w"
        with contextlib.suppress(CutShortError), work_folder(path, WORK) as work:
            assert stat.S_IMODE(work.stat().st_mode) == 0o700
            (work / "tokens").write_text("1 2 3")
            (work / "deeper").mkdir()
            subprocess.run(["touch", work / "deeper" / "of-a-child"], check=True)
            raise CutShortError
        assert modes(path) == {0o600}
        assert (path / "unfinished" / "deeper" / "of-a-child").exists()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_crash_while_the_key_was_written_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "w"
    (path / "unfinished").mkdir(mode=0o700, parents=True)
    (path / "unfinished" / f".key.{'a' * 16}.tmp").write_text(KEY[:5])
    path.chmod(0o700)
    assert not cut_short(path)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no digest", "another digest"])
def test_a_finished_file_that_changed_counts_as_missing(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "reference.gguf"
    path.write_bytes(b"finished")
    keep(path)
    digest = (tmp_path / ".reference.gguf.sha256").read_text()
    assert is_kept(path)
    assert is_kept(path, digest)
    assert not is_kept(path, "0" * 64)
    match damage:
        case "cut":
            path.write_bytes(b"finish")
        case "changed":
            path.write_bytes(b"Finished")
        case "gone":
            path.unlink()
        case "no digest":
            (tmp_path / ".reference.gguf.sha256").unlink()
        case "another digest":
            (tmp_path / ".reference.gguf.sha256").write_text("0" * 64)
    assert not is_kept(path)
