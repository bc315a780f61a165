"""How much memory this machine has for a model: all of it, or what its cgroup allows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")
_MAX_BYTES: Final = 64


def usable_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return bytes of memory: physical, cut by the limit of this process's cgroup.

    Args:
        root: where the cgroup file systems are mounted; a container sees its own group there.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_limit(root / name) for name in _LIMITS]
    return min([total, *(limit for limit in limits if limit)])


def _limit(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
