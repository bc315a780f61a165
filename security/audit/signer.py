"""The log's own two keys, and the checkpoints they sign.

`LogSigner` signs what it is told; that it is told only of durable sizes, and
never of two trees that contradict each other, is the store's promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from security.audit.checkpoint import Checkpoint, VerifiedCheckpoint, cosigned_message
from security.audit.note import ED25519, MLDSA44, VerifierKey, encode_note
from security.keys import Algorithm, load_private_key


class LogSigner:
    """Signs checkpoints with Ed25519 and ML-DSA-44, both under the log's origin.

    Thread-safe: the keys are immutable.
    """

    def __init__(
        self,
        origin: str,
        ed25519_key: Ed25519PrivateKey,
        mldsa44_key: MLDSA44PrivateKey,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self._ed25519_key = ed25519_key
        self._mldsa44_key = mldsa44_key
        self._clock = clock
        self.keys = verifier_keys(origin, ed25519_key.public_key(), mldsa44_key.public_key())

    def __repr__(self) -> str:
        return f"LogSigner({self.origin!r})"

    @classmethod
    def load(
        cls, origin: str, key: Path, cosigner_key: Path, *, passphrase: bytes | None = None
    ) -> LogSigner:
        """Return the signer whose keys are in two PKCS#8 PEM files.

        Raises:
            KeyFileError: a file is missing, readable by others, or holds another key type.
            AuditError: the origin is not acceptable.
        """
        return cls(
            origin,
            load_private_key(key, Algorithm.ED25519, passphrase),
            load_private_key(cosigner_key, Algorithm.MLDSA44, passphrase),
        )

    def sign(self, size: int, root: bytes) -> VerifiedCheckpoint:
        """Return the signed checkpoint of a tree; costs about 0.7 ms."""
        checkpoint = Checkpoint(self.origin, size, root)
        text = checkpoint.text()
        stamp = int(self._clock())
        ed25519, mldsa44 = self.keys
        message = cosigned_message(self.origin, stamp, checkpoint)
        signatures = (
            (ed25519, self._ed25519_key.sign(text.encode())),
            (mldsa44, stamp.to_bytes(8, "big") + self._mldsa44_key.sign(message)),
        )
        return VerifiedCheckpoint(checkpoint, self.keys, stamp, encode_note(text, signatures))


def verifier_keys(
    origin: str, ed25519_public: Ed25519PublicKey, mldsa44_public: MLDSA44PublicKey
) -> tuple[VerifierKey, VerifierKey]:
    """Return the two verifier keys of a log.

    Raises:
        AuditError: the origin may not be a key name.
    """
    return (
        VerifierKey(origin, ED25519, ed25519_public.public_bytes_raw()),
        VerifierKey(origin, MLDSA44, mldsa44_public.public_bytes_raw()),
    )


def verifier_lines(
    origin: str, ed25519_public: Ed25519PublicKey, mldsa44_public: MLDSA44PublicKey
) -> str:
    """Return the text of `trust/log.vkeys`: one verifier key a line."""
    keys = verifier_keys(origin, ed25519_public, mldsa44_public)
    return "".join(f"{key.line()}\n" for key in keys)
