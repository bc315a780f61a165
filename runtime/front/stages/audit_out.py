"""Stage 8: how the call ended goes to the log, and is durable before the client is told.

A call that was admitted gets a `completed` entry, whatever its status; one that was
refused before that gets a `denied` entry, or, beyond its caller's allowance of them,
a place in a count (runtime/front/denials.py). A call that succeeded but cannot be put on
record is not reported as a success.
"""

from __future__ import annotations

import hashlib
import logging

from runtime.front.call import Call
from runtime.front.errors import audit_unavailable
from runtime.front.stages.base import Parts
from runtime.front.stages.entries import entry_of, operation_entry
from security.errors import CasemateError

_LOG = logging.getLogger("casemate.front")


class AuditOut:
    """Sets `call.entry` and `call.entry_index`; may turn the status into UNAVAILABLE."""

    name = "audit_out"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, call: Call) -> None:
        """Append the entry and wait for the disk."""
        if call.spec.unaudited_because and call.refusal is None:
            return
        try:
            self.record(call)
            if call.completed is not None:
                call.entry_index = await self._parts.bridge.wrap(call.completed)
        except CasemateError as error:
            _LOG.error("an entry could not be written", extra={"request_id": call.request_id})
            # Whatever it was refused for: the client must not take it for being on record.
            call.refusal = audit_unavailable(str(error))

    def record(self, call: Call) -> None:
        """Append the entry without waiting; once per call."""
        if call.completed is not None or call.only_counted:
            return
        principal = call.principal
        if call.admitted is None and call.refusal is not None:
            name, role = (principal.spiffe_id, principal.role) if principal else ("", "")
            key = name or hashlib.sha256(call.peer.certificate).hexdigest()
            if not self._parts.denials.admit(key, name, role):
                call.only_counted = True
                return
        if call.spec.operation and call.refusal is None and principal is not None:
            method = call.spec.name.rpartition("/")[2]
            detail = f"{method} {call.model} {call.version}".strip()
            self._parts.log.append(
                operation_entry(detail, principal.spiffe_id, principal.role, call.request_id)
            )
        call.entry = entry_of(call, "denied" if call.admitted is None else "completed")
        call.completed = self._parts.log.append(call.entry)
