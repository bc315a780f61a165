"""Which commit a folder is a checkout of, read from git's own files.

git itself is not asked: a repository can name programs for it to run (to watch files, to fetch a
commit that is missing), and this one may be a stranger's. Nothing is taken out of its files but
a commit's hexadecimal name. Their format: gitrepository-layout(5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from compiler.errors import SourceError
from compiler.files import ANYWHERE, read_text

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REFERENCE: Final = re.compile(r"ref: (refs(?:/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+)")
_LINK: Final = "gitdir: "


def commit_of(folder: Path) -> str:
    """Return the commit that a folder has checked out; "" where that cannot be told."""
    try:
        place = _repository(folder)
        head = _line(place / "HEAD")
        named = _REFERENCE.fullmatch(head)
        commit = head if named is None else _resolve(_common(place), named[1])
    except (SourceError, OSError, ValueError):
        return ""
    return commit if _COMMIT.fullmatch(commit) else ""


def _repository(folder: Path) -> Path:
    """Return where HEAD lies: in `.git`, or where that says, as for a second worktree."""
    place = folder / ".git"
    if place.is_dir():
        return place
    line = _line(place)
    return folder / line.removeprefix(_LINK) if line.startswith(_LINK) else place


def _common(place: Path) -> Path:
    """Return where the references lie, which worktrees share."""
    shared = place / "commondir"
    return place / _line(shared) if shared.is_file() else place


def _resolve(place: Path, reference: str) -> str:
    if (place / reference).is_file():
        return _line(place / reference)
    for line in read_text(place / "packed-refs", root=ANYWHERE).splitlines():
        commit, _, name = line.partition(" ")
        if name == reference:
            return commit
    return ""


def _line(path: Path) -> str:
    return read_text(path, root=ANYWHERE).strip()
