"""Stage 5: the `admitted` entry goes to the log.

It is queued here, so that the work can start while the disk writes; `Deliver`
(stage 7) lets nothing of an answer leave before it is durable.
"""

from __future__ import annotations

from runtime.front.call import Call
from runtime.front.stages.base import Parts
from runtime.front.stages.entries import entry_of


class AuditIn:
    """Sets `call.admitted`."""

    name = "audit_in"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, call: Call) -> None:
        """Queue the entry."""
        if call.spec.unaudited_because:
            return
        call.admitted = self._parts.bridge.wrap(self._parts.log.append(entry_of(call, "admitted")))
