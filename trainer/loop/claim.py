"""One run at a time in a run folder.

Two runs that wrote the same checkpoints would ruin both. The first rank holds a lock on
a file in the folder for as long as it lives; the kernel lets go of it however the
process ends, so nothing stays behind that somebody would have to remove.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import TrainingError

LOCK_FILE = "run.lock"


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a run folder.

    Raises:
        TrainingError: another process holds it.
    """
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise TrainingError(
                f"another process is running in {folder}; wait for it, or choose another "
                "folder with -o"
            ) from busy
        yield
