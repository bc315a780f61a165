"""`model.sig.mldsa65`: a raw ML-DSA-65 signature, 3,309 bytes, and nothing else.

It is over the same DSSE bytes as the ECDSA signature in `model.sig` (FIPS 204, pure,
empty context), so there is nothing in the file to parse or to disagree about.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from security.signing.dsse import PAYLOAD_TYPE, pae

# FIPS 204, table 2.
SIDECAR_BYTES: Final = 3309


def sign(key: MLDSA65PrivateKey, payload: bytes) -> bytes:
    """Return the sidecar for an in-toto payload."""
    return key.sign(pae(PAYLOAD_TYPE, payload))


def verifies(key: MLDSA65PublicKey, sidecar: bytes, payload: bytes) -> bool:
    """Tell whether `sidecar` is the key's signature over an in-toto payload."""
    if len(sidecar) != SIDECAR_BYTES:
        return False
    try:
        key.verify(sidecar, pae(PAYLOAD_TYPE, payload))
    except InvalidSignature:
        return False
    return True
