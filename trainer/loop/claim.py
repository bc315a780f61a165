"""One run at a time in a run folder.

Two runs that wrote the same checkpoints would ruin both. The first rank holds a lock on
a file in the folder for as long as it lives; the kernel lets go of it however the
process ends, so nothing stays behind that somebody would have to remove.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainer.distribution.group import Group
from trainer.errors import TrainingError

LOCK_FILE = "run.lock"


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a run folder.

    Raises:
        TrainingError: another process holds it, or the lock cannot be made.
    """
    # Neither truncated nor followed: a link of this name must not harm what it points to.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(folder / LOCK_FILE, flags, 0o600)
    except OSError as problem:
        raise TrainingError(
            f"{folder / LOCK_FILE} cannot be made: {problem.strerror}; choose another folder "
            "with -o"
        ) from problem
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        os.close(descriptor)
        raise TrainingError(
            f"another process is running in {folder}; wait for it, or choose another folder with -o"
        ) from busy
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def claim_together(folder: Path, group: Group) -> Iterator[None]:
    """Hold a run folder on the first rank; a refusal is raised on every rank.

    Raises:
        TrainingError: as for `claim`.
    """
    with ExitStack() as held:
        refusal: str | None = None
        if group.is_first:
            try:
                held.enter_context(claim(folder))
            except TrainingError as problem:
                refusal = str(problem)
        answer = group.broadcast(refusal)
        if answer is not None:
            raise TrainingError(answer)
        yield
