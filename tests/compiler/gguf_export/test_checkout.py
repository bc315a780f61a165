"""A checkout's commit is what git says, and nothing that the checkout names is ever run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.gguf_export.checkout import commit_of

ZEROS = "0" * 40


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "topic/one-v1.0")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return folder


def loose(folder: Path) -> Path:
    return folder


def packed(folder: Path) -> Path:
    git(folder, "pack-refs", "--all")
    assert not (folder / ".git" / "refs" / "heads" / "topic" / "one-v1.0").exists()
    return folder


def detached(folder: Path) -> Path:
    git(folder, "checkout", "-q", "--detach")
    return folder


def second_worktree(folder: Path) -> Path:
    git(folder, "worktree", "add", "-q", "-b", "two", str(folder.parent / "second"))
    return folder.parent / "second"


def second_worktree_packed(folder: Path) -> Path:
    second = second_worktree(folder)
    git(folder, "pack-refs", "--all")
    return second


@pytest.mark.parametrize("made", [loose, packed, detached, second_worktree, second_worktree_packed])
def test_the_commit_is_what_git_says(made: Callable[[Path], Path], checkout: Path) -> None:
    folder = made(checkout)
    assert commit_of(folder) == git(folder, "rev-parse", "HEAD")


def test_the_environments_repository_is_not_asked(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert commit_of(checkout) == commit


@pytest.mark.parametrize(
    "head",
    [
        "",
        "ref: ",
        "ref: refs/heads/none",
        "ref: refs/../../../secret",
        "ref: ../../secret",
        "ref: /etc/hostname",
        "ref: refs/heads/" + "x" * 5000,
        "DEADBEEF" * 5,
        ZEROS[:-1],
        "\0",
    ],
)
def test_a_head_that_names_no_commit_gives_none(head: str, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(ZEROS)
    (checkout / ".git" / "HEAD").write_text(head + "\n")
    assert commit_of(checkout) == ""


def test_what_a_reference_holds_is_a_commit_or_is_not_told(checkout: Path) -> None:
    place = checkout / ".git" / "refs" / "heads" / "topic" / "one-v1.0"
    place.write_text("the words of a patient\n")
    assert commit_of(checkout) == ""


@pytest.mark.parametrize("made", ["nothing", "an empty folder", "a file", "a gitdir that is none"])
def test_no_checkout_has_no_commit(made: str, tmp_path: Path) -> None:
    place = tmp_path / ".git"
    if made == "an empty folder":
        place.mkdir()
    elif made == "a file":
        place.write_bytes(b"\xff\xfe")
    elif made == "a gitdir that is none":
        place.write_text("gitdir: nowhere\n")
    assert commit_of(tmp_path) == ""


def test_no_program_that_a_checkout_names_is_run(checkout: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    for name, value in {
        "core.repositoryformatversion": "1",
        "core.fsmonitor": str(hook),
        "core.sshCommand": str(hook),
        "core.pager": str(hook),
        "extensions.partialClone": "origin",
        "remote.origin.url": "ssh://example.org/x",
        "remote.origin.promisor": "true",
    }.items():
        git(checkout, "config", name, value)
    (checkout / ".git" / "HEAD").write_text(ZEROS + "\n")
    assert commit_of(checkout) == ZEROS
    assert not (tmp_path / "ran").exists()
