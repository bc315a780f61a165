"""A `PeerVerifier` that follows its files: rotated roots, renewed chains, revocations.

`verify` looks at the three files on every call (three stats, about 6 microseconds),
so a revocation counts from the next call on. What is refused: a file that is malformed
or not signed, a set of files that does not fit together, and a revocation list that is
older than the one in force. Then the last good set stays in force and `error` says why;
the revocation list's own end still applies, so this cannot go on for ever.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509

from security.errors import IdentityError, SecurityError
from security.files import WatchedFile
from security.identity.peer import PeerVerifier, Principal
from security.identity.pem import parse_certificates
from security.identity.revocation import RevocationList

Certificates = tuple[x509.Certificate, ...]


class WatchedPeerVerifier:
    """Verifies peers against files that may be replaced at any time.

    Not thread-safe: one event loop or thread owns it.

    Args:
        trust_domain: the only one accepted.
        roots: PEM, the trusted roots.
        chain: PEM, the server certificate followed by the issuing CA's.
        revocations: PEM, the issuing CA's revocation list.

    Raises:
        SecurityError: a file cannot be read, or is refused (nothing to fall back to).
    """

    def __init__(self, trust_domain: str, roots: Path, chain: Path, revocations: Path) -> None:
        self.trust_domain = trust_domain
        self._roots: WatchedFile[Certificates] = WatchedFile(
            roots, lambda data: parse_certificates(data, str(roots))
        )
        self._chain: WatchedFile[Certificates] = WatchedFile(
            chain, lambda data: parse_certificates(data, str(chain))
        )
        self._revocations: WatchedFile[bytes] = WatchedFile(revocations, bytes)
        self._set_error: SecurityError | None = None
        self._verifier = self._build(oldest_number=0)
        self._generations = self._current_generations()

    @property
    def error(self) -> SecurityError | None:
        """Why the newest files are not in force; None when they are."""
        files = (self._roots, self._chain, self._revocations)
        return next((file.error for file in files if file.error), self._set_error)

    @property
    def revocations(self) -> RevocationList:
        """The revocation list in force."""
        return self._verifier.revocations

    def verify(self, certificate_pem: bytes, now: datetime | None = None) -> Principal:
        """Return the principal a certificate stands for: see `PeerVerifier.verify`.

        Raises:
            PeerRefused: it is not acceptable, or is not so any more.
        """
        self.refresh()
        return self._verifier.verify(certificate_pem, now)

    def refresh(self) -> bool:
        """Look for changed files; return whether a new set came into force."""
        for file in (self._roots, self._chain, self._revocations):
            file.current()
        generations = self._current_generations()
        if generations == self._generations:
            return False
        self._generations = generations
        try:
            self._verifier = self._build(oldest_number=self._verifier.revocations.number)
        except SecurityError as error:
            self._set_error = error
            return False
        self._set_error = None
        return True

    def _current_generations(self) -> tuple[int, int, int]:
        return self._roots.generation, self._chain.generation, self._revocations.generation

    def _build(self, oldest_number: int) -> PeerVerifier:
        chain = self._chain.current()
        if len(chain) < 2:
            raise IdentityError(f"{self._chain.path} lacks the issuing authority's certificate")
        issuing = chain[1]
        path = self._revocations.path
        revocations = RevocationList.parse(self._revocations.current(), issuing, str(path))
        if revocations.number < oldest_number:
            raise IdentityError(f"{path} is older than the revocation list in force")
        return PeerVerifier(self.trust_domain, self._roots.current(), issuing, revocations)
