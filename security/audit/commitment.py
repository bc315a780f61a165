"""Commitments: what was asked and answered, bound without being revealed.

An entry of the log holds HMAC-SHA256 of the request and of the answer under a
key made for that one request. Only the client gets the key, in its receipt: with
it and the texts anyone can check the commitment; without it the commitment says
nothing, not even whether two requests were the same.

The message is the domain and then each part, each preceded by its length in
bytes as a big-endian uint64, so that no two lists of parts collide.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from security.errors import UsageError

KEY_BYTES = 32
REQUEST_DOMAIN = "casemate.request/1"
ANSWER_DOMAIN = "casemate.answer/1"


def new_key() -> bytes:
    """Return a fresh commitment key, 32 random bytes."""
    return secrets.token_bytes(KEY_BYTES)


class Committer:
    """A commitment that is fed part by part. Not thread-safe."""

    def __init__(self, key: bytes, domain: str) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"a commitment key has {KEY_BYTES} bytes")
        self._mac = hmac.new(key, digestmod=hashlib.sha256)
        self.add(domain.encode())

    def add(self, part: bytes) -> None:
        """Add one whole part; two parts are not the same as their concatenation."""
        self._mac.update(len(part).to_bytes(8, "big"))
        self._mac.update(part)

    def digest(self) -> bytes:
        """Return the commitment to the parts so far, 32 bytes."""
        return self._mac.digest()


def commit(key: bytes, domain: str, parts: Iterable[bytes]) -> bytes:
    """Return the commitment to `parts` under `key`, 32 bytes."""
    committer = Committer(key, domain)
    for part in parts:
        committer.add(part)
    return committer.digest()
