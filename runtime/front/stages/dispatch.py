"""Stage 6: the work begins."""

from __future__ import annotations

from runtime.front.call import Call
from runtime.front.stages.base import Parts


class Dispatch:
    """Sets `call.answer`."""

    name = "dispatch"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, call: Call) -> None:
        """Start the work; its answers are read by the next stage."""
        call.answer = call.spec.handler.answer(call)
