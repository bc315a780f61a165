"""An action that every rank takes part in, and that fails on all ranks if it fails on one.

Without this, the rank whose disk is full would raise while the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.checkpointing.storage import reason_of
from trainer.distribution.channel import Channel
from trainer.errors import CheckpointError


def together(channel: Channel, action: Callable[[], Any]) -> list[Any]:
    """Run `action` on every rank; return what each returned (JSON types), by rank.

    Raises:
        CheckpointError: it raised OSError or CheckpointError on a rank; of several the
            lowest rank's, and the same on every rank.
    """
    outcome: dict[str, Any]
    try:
        outcome = {"value": action()}
    except CheckpointError as error:
        outcome = {"error": str(error)}
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        outcome = {"error": where + reason_of(error)}
    outcomes = channel.gather(outcome)
    for rank, each in enumerate(outcomes):
        if "error" in each:
            by = f" (rank {rank})" if rank else ""
            raise CheckpointError(f"{each['error']}{by}")
    return [each["value"] for each in outcomes]
