"""A verifier that does not look at the disk for every call.

Looking whether the trust files changed costs three system calls, and each makes the
loop's thread queue for the interpreter lock. So a peer that was verified less than
`RECENT_SECONDS` ago is taken as verified; the server looks again at every open call
several times a second anyhow. A revocation counts within that time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from runtime.front.stages.base import Verifier
from security.identity.peer import Principal

RECENT_SECONDS = 0.1
_MAX_PEERS = 4096


class RecentVerifier:
    """Remembers for a moment who was verified; refusals are never remembered."""

    def __init__(self, verifier: Verifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._verifier = verifier
        self._clock = clock
        self._recent: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def verify(self, certificate_pem: bytes) -> Principal:
        """Return the principal; raise `PeerRefused`."""
        now = self._clock()
        known = self._recent.get(certificate_pem)
        if known is not None and now - known[0] < RECENT_SECONDS:
            return known[1]
        self._recent.pop(certificate_pem, None)
        principal = self._verifier.verify(certificate_pem)
        self._recent[certificate_pem] = (now, principal)
        if len(self._recent) > _MAX_PEERS:
            self._recent.popitem(last=False)
        return principal
