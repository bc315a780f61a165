"""DSSE v1: the bytes that both signatures of a bundle cover.

Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md. The type
is signed together with the payload, so a signature over one kind of document never
passes for another. Only the current encoding is known; the faulty one of
model-signing 0.2 is refused.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

# OMS v1.0 pairs each curve with the hash of its strength.
_HASHES: Final[dict[str, type[HashAlgorithm]]] = {
    "secp256r1": SHA256,
    "secp384r1": SHA384,
    "secp521r1": SHA512,
}


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding of a payload: what is really signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """Return the DER ECDSA signature over an in-toto payload.

    Raises:
        ValueError: OMS knows no such curve.
    """
    return key.sign(pae(PAYLOAD_TYPE, payload), ec.ECDSA(_hash(key.curve)))


def verifies(key: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes) -> bool:
    """Tell whether `signature` is the key's over an in-toto payload.

    Raises:
        ValueError: OMS knows no such curve.
    """
    try:
        key.verify(signature, pae(PAYLOAD_TYPE, payload), ec.ECDSA(_hash(key.curve)))
    except InvalidSignature:
        return False
    return True


def _hash(curve: ec.EllipticCurve) -> HashAlgorithm:
    algorithm = _HASHES.get(curve.name)
    if algorithm is None:
        raise ValueError(f"OMS v1.0 has no curve {curve.name}")
    return algorithm()
