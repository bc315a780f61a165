"""Kept data is this user's alone, and what killed processes left is swept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trainer.data.test_prepare import recipe, run
from tests.trainer.data.texts import prose
from trainer.data.kept_folder import building, put, require_own, sweep
from trainer.data.shards import MANIFEST_FILE, manifest_digest
from trainer.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
# Begins to build a folder, says so, and waits to be killed.
_BUILDER = """
import sys
from pathlib import Path
from trainer.data.kept_folder import building
with building(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("written")
    print(partial, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(prose(300))
    return path


@pytest.fixture
def kept(tmp_path: Path, book: Path) -> Path:
    """Prepared text in a cache."""
    prepared = run(recipe(book, cache=str(tmp_path / "cache")), tmp_path / "shards")
    return prepared.train.folder.parent


def again(book: Path, kept: Path) -> None:
    run(recipe(book, cache=str(kept.parent)), kept.parent)


def test_what_this_user_alone_may_write_is_taken(book: Path, kept: Path) -> None:
    kept.chmod(0o755)
    again(book, kept)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o730])
def test_a_folder_that_others_may_write_is_refused(book: Path, kept: Path, mode: int) -> None:
    kept.chmod(mode)
    with pytest.raises(DataError, match="may be written by other users"):
        again(book, kept)


def test_a_file_that_others_may_write_is_refused_where_they_come_to_it(
    book: Path, kept: Path
) -> None:
    (kept / "train" / MANIFEST_FILE).chmod(0o666)
    again(book, kept)
    kept.chmod(0o755)
    with pytest.raises(DataError, match=r"manifest\.json may be written by other users"):
        again(book, kept)


def test_a_link_is_refused(book: Path, kept: Path, tmp_path: Path) -> None:
    inside = kept / "train" / MANIFEST_FILE
    inside.rename(tmp_path / "moved")
    inside.symlink_to(tmp_path / "moved")
    with pytest.raises(DataError, match="is a link"):
        again(book, kept)
    inside.unlink()
    (tmp_path / "moved").rename(inside)
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is no folder"):
        again(book, kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("inside", ["", "train/manifest.json", "tokenizer"])
def test_what_belongs_to_another_user_is_refused(book: Path, kept: Path, inside: str) -> None:
    os.chown(kept / inside, 12_345, -1)
    with pytest.raises(DataError, match="belongs to another user"):
        require_own(kept)


def test_shards_of_other_sources_are_refused(book: Path, kept: Path) -> None:
    path = kept / "train" / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    manifest["sources"][0]["sha256"] = "0" * 64
    manifest["digest"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="made from other files than the recipe names"):
        again(book, kept)


def test_a_file_of_another_name_is_the_same_source(book: Path, kept: Path) -> None:
    other = book.with_name("renamed.txt")
    book.rename(other)
    again(other, kept)
    assert len(list(kept.parent.iterdir())) == 1


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_builds_is_not(
    tmp_path: Path,
) -> None:
    base = tmp_path / "cache"
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILDER, str(base / "wanted")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    try:
        places = []
        for builder in builders:
            assert builder.stdout is not None
            places.append(Path(builder.stdout.readline().strip()))
        os.kill(builders[0].pid, signal.SIGKILL)
        builders[0].wait(timeout=30)
        assert places[0].is_dir()
        sweep(base)
        assert not places[0].exists()
        assert (places[1] / "half").read_text() == "written"
    finally:
        for builder in builders:
            builder.kill()
            builder.communicate(timeout=30)


def test_a_leftover_without_a_lock_is_swept_when_it_is_old(tmp_path: Path) -> None:
    old, fresh, other = (
        tmp_path / name for name in ("a.partial-1", "a.partial-2", "partial-of-somebody")
    )
    for folder in (old, fresh, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (0, time.time() - 90_000))
    sweep(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.partial-2", other.name]


def test_a_failure_and_a_success_leave_one_folder(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "name"
    for content in ("first", "second"):
        with building(place) as partial:
            (partial / "file").write_text(content)
            put(partial, place)
    error = ValueError("in the middle")
    with pytest.raises(ValueError, match="in the middle"), building(place):
        raise error
    assert [each.name for each in place.parent.iterdir()] == ["name"]
    # The first one counts; no lock is left in it.
    assert [each.name for each in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "first"
