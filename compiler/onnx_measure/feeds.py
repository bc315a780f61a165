"""Inputs of a graph's runs in a file, for a process that is to run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.onnx_measure.result import Feeds


def save_feeds(path: Path, feeds: Sequence[Feeds]) -> str:
    """Write the inputs of several runs to one .npz file; return its absolute name."""
    arrays = {
        f"{run}:{name}": array for run, one in enumerate(feeds) for name, array in one.items()
    }
    np.savez(path, allow_pickle=False, **arrays)
    return str(path.absolute())


def load_feeds(path: str) -> list[dict[str, NDArray[Any]]]:
    """Read what `save_feeds` wrote."""
    feeds: list[dict[str, NDArray[Any]]] = []
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            run, _, name = key.partition(":")
            while len(feeds) <= int(run):
                feeds.append({})
            feeds[int(run)][name] = file[key]
    return feeds
