"""Stage 7: the rules for what goes out, and the way out itself.

Every message passes the method's out-filter; what the filter releases is sent, the
first one only once the `admitted` entry is durable, and committed to once the transport
has taken it. A client that reads slowly slows this loop and nothing else: sending waits
for the transport.
"""

from __future__ import annotations

import time
from typing import Any

from runtime.front.call import Call
from runtime.front.errors import audit_unavailable
from runtime.front.stages.base import Parts
from security.audit.commitment import ANSWER_DOMAIN, Committer
from security.errors import AuditError


class FilterOut:
    """Sends the answer; sets `call.answer_commitment`."""

    name = "filter_out"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, call: Call) -> None:
        """Read, filter and send until the work is done or the time is up."""
        if call.answer is None:
            return
        out_filter = call.spec.handler.out_filter(call)
        key = call.commitment_key
        committer = Committer(key, ANSWER_DOMAIN) if key else None
        try:
            async for message in call.answer:
                for released in out_filter.feed(message):
                    await self._deliver(call, released)
                    # Only now: a message that never left must not be committed to.
                    if committer is not None:
                        for part in call.spec.handler.answer_parts(call, released):
                            committer.add(part)
                if out_filter.done:
                    break
        finally:
            # Also for an answer cut short: what was delivered is what is committed to.
            if committer is not None:
                for part in call.spec.handler.answer_parts(call, None):
                    committer.add(part)
                call.answer_commitment = committer.digest().hex()
        await self._durable(call)

    async def _deliver(self, call: Call, message: Any) -> None:
        await self._durable(call)
        now = time.monotonic()
        if call.first_token is None:
            call.first_token = now
        call.last_token = now
        call.messages_sent += 1
        await call.send(message)

    async def _durable(self, call: Call) -> None:
        """Wait until the `admitted` entry is on disk."""
        if call.admitted is None:
            return
        try:
            # A future of the loop's own: cancelling this wait does not reach the log.
            await call.admitted
        except AuditError as error:
            raise audit_unavailable(str(error)) from None
