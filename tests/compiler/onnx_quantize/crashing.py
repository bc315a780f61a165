"""Work for a child process that goes wrong."""

from __future__ import annotations

import os
import signal
from typing import Any


def serve(request: dict[str, Any]) -> dict[str, Any]:
    if request["how"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if request["how"] == "hang":
        signal.pause()
    return {"never": 1 / 0}
