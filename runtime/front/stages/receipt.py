"""Stage 9: the client gets its receipt, in the trailers.

The receipt proves the `completed` entry and holds the only copy of the commitment
key that is ever kept. A receipt that cannot be made does not undo the answer: the
entry is durable, and the client can ask the log for the proof.
"""

from __future__ import annotations

import logging

from runtime.front.call import Call
from runtime.front.stages.base import Parts
from security.audit import receipt
from security.errors import CasemateError

RECEIPT_KEY = "casemate-receipt-bin"
REQUEST_ID_KEY = "casemate-request-id"
_LOG = logging.getLogger("casemate.front")


class Receipt:
    """Adds to `call.trailers`."""

    name = "receipt"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, call: Call) -> None:
        """Put the request id, and the receipt where there is one, into the trailers."""
        call.trailers.append((REQUEST_ID_KEY, call.request_id))
        if call.entry_index < 0 or not call.commitment_key or call.admitted is None:
            return
        try:
            proof = await self._parts.bridge.wrap(self._parts.log.receipt_for(call.entry_index))
            call.trailers.append(
                (RECEIPT_KEY, receipt.build(call.entry, call.commitment_key, proof))
            )
        except CasemateError as error:
            _LOG.error("no receipt: %s", error, extra={"request_id": call.request_id})
