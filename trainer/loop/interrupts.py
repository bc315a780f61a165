"""Ctrl-C and SIGTERM end a run after the update that is being made.

The first signal asks: the update is finished, a checkpoint is written, and the same
command continues later. The second is obeyed at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Why a run ends after an update: somebody asked, or its time is over; "" goes on.
StopReason = Literal["", "asked", "time"]


def stop_wish(reason: StopReason) -> list[float]:
    """Return what a rank adds to the figures of all ranks: whether asked, whether late."""
    return [float(reason == "asked"), float(reason == "time")]


def stop_reason(asked: float, late: float) -> StopReason:
    """Return why all ranks stop, of the sums of their wishes: the same on each of them.

    A person goes before a clock.
    """
    if asked > 0:
        return "asked"
    return "time" if late > 0 else ""


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False

    def ask(self) -> None:
        """Ask for a stop after the current update."""
        self.requested = True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request, within the context.

    Outside of the main thread signals cannot be handled, and the request is only ever
    made by its own `ask`.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if request.requested:
            raise KeyboardInterrupt
        request.ask()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
