"""Stage 1: who is calling, by the certificate, now.

TLS checked the chain when the connection opened; connections live long, so version,
expiry and revocation are checked on every call, and again while a call is open.
"""

from __future__ import annotations

import grpc

from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.front.stages.base import Parts
from security.identity.peer import PeerRefused

REQUIRED_TLS = "TLSv1.3"


class Authenticate:
    """Sets `call.principal`."""

    name = "authenticate"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, call: Call) -> None:
        """Verify the peer; raise UNAUTHENTICATED."""
        peer = call.peer
        # 1. The transport: TLS 1.3 and nothing else.
        if peer.tls_version != REQUIRED_TLS:
            raise _refused("TLS_VERSION", "this appliance speaks TLS 1.3 only")
        # 2. A certificate of a client.
        if not peer.certificate:
            raise _refused("NO_CERTIFICATE", "a client certificate is required")
        # 3. Issued by us, in time, not revoked.
        try:
            call.principal = self._parts.verifier.verify(peer.certificate)
        except PeerRefused as error:
            word = error.reason.upper().replace("-", "_")
            raise _refused(
                f"CERTIFICATE_{word}", "the client certificate is not accepted", str(error)
            ) from None


def _refused(reason: str, message: str, detail: str = "") -> Refusal:
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, reason, message, detail=detail)
