"""From the certificate a peer showed to the principal it is: asked on every call.

gRPC checks the chain once, when a connection opens, and then keeps it for an hour.
So everything is checked here again, and what time can change is checked each time.
A certificate's fixed properties are remembered by its bytes, which makes a repeated
call cost a few microseconds.

What it refuses: whatever is not a client certificate of this trust domain, issued by
this appliance's own issuing CA (the one whose revocation list it holds: for any other
nobody here could say whether a certificate was revoked).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from security.errors import IdentityError
from security.identity.pem import parse_certificates, require_der_signature
from security.identity.profile import utc_now
from security.identity.revocation import RevocationList
from security.identity.spiffe import SpiffeId, check_trust_domain

# Remembered certificates: each takes about 2 KiB.
MAX_REMEMBERED_CERTIFICATES = 4096
MAX_PEER_CERTIFICATE_BYTES = 16 * 1024


class PeerRefused(IdentityError):
    """A peer's certificate is not acceptable.

    Attributes:
        reason: one of "malformed", "not-a-client", "trust-domain", "issuer",
            "not-yet-valid", "expired", "revoked", "authority-not-valid",
            "revocation-list-not-current". Stable, and fit for a wire error.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling.

    Attributes:
        spiffe_id: the whole id, `spiffe://TRUST DOMAIN/ROLE/NAME`.
        trust_domain, role, name: its parts.
        serial: the certificate's serial number.
        not_after: when the certificate expires, UTC.
    """

    spiffe_id: str
    trust_domain: str
    role: str
    name: str
    serial: int
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _Remembered:
    principal: Principal
    not_before: datetime


class PeerVerifier:
    """Verifies peers of one trust domain. Immutable but for what it remembers.

    Not thread-safe: one event loop or thread owns it.

    Args:
        trust_domain: the only one accepted.
        roots: the trusted roots.
        issuing: the issuing CA; at least one root signed it.
        revocations: its current list.

    Raises:
        IdentityError: the issuing CA is no CA, or none of the roots signed it.
    """

    def __init__(
        self,
        trust_domain: str,
        roots: Sequence[x509.Certificate],
        issuing: x509.Certificate,
        revocations: RevocationList,
    ) -> None:
        check_trust_domain(trust_domain)
        self.trust_domain = trust_domain
        self.revocations = revocations
        self._issuing = issuing
        self._authority_windows = _authority_windows(roots, issuing)
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    def verify(self, certificate_pem: bytes, now: datetime | None = None) -> Principal:
        """Return the principal that a certificate stands for, at `now`.

        Args:
            certificate_pem: the peer's certificate; certificates after it are ignored.
            now: UTC; the present by default.

        Raises:
            PeerRefused: it is not acceptable, or is not so any more.
        """
        known = self._remembered.get(certificate_pem)
        if known is None:
            known = self._examine(certificate_pem)
            self._remembered[certificate_pem] = known
            if len(self._remembered) > MAX_REMEMBERED_CERTIFICATES:
                self._remembered.popitem(last=False)
        self._check_time(known, now or utc_now())
        return known.principal

    def _examine(self, certificate_pem: bytes) -> _Remembered:
        """Check what cannot change. RFC 5280 6.1 for a path of one intermediate."""
        # 1. Well-formed and bounded.
        if len(certificate_pem) > MAX_PEER_CERTIFICATE_BYTES:
            raise PeerRefused("malformed", "the peer's certificate is too large")
        try:
            leaf = parse_certificates(certificate_pem, "the peer's certificate")[0]
            require_der_signature(leaf, "the peer's certificate")
        except IdentityError as error:
            raise PeerRefused("malformed", str(error)) from error
        # 2. Signed by the issuing CA, before anything it says is believed (6.1.3 (a)(1), (4)).
        try:
            leaf.verify_directly_issued_by(self._issuing)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise PeerRefused(
                "issuer", "the peer's certificate is not of this authority"
            ) from error
        # 3. A client's leaf certificate (X.509-SVID 4.1, 4.3, 5.2; RFC 5280 6.1.4 (n), (o)).
        _check_client(leaf)
        # 4. One SPIFFE id, of this trust domain (X.509-SVID 2, 5.2).
        spiffe_id = spiffe_id_of(leaf)
        if spiffe_id.trust_domain != self.trust_domain:
            raise PeerRefused("trust-domain", "the peer is of another trust domain")
        try:
            role, name = spiffe_id.role_and_name()
        except IdentityError as error:
            raise PeerRefused("malformed", str(error)) from error
        principal = Principal(
            spiffe_id=str(spiffe_id),
            trust_domain=spiffe_id.trust_domain,
            role=role,
            name=name,
            serial=leaf.serial_number,
            not_after=leaf.not_valid_after_utc,
        )
        return _Remembered(principal, leaf.not_valid_before_utc)

    def _check_time(self, known: _Remembered, now: datetime) -> None:
        """Check what can change: validity (6.1.3 (a)(2)) and revocation ((a)(3))."""
        name = known.principal.spiffe_id
        if now < known.not_before:
            raise PeerRefused("not-yet-valid", f"the certificate of {name} is not valid yet")
        if now > known.principal.not_after:
            raise PeerRefused("expired", f"the certificate of {name} has expired")
        if not any(start <= now <= end for start, end in self._authority_windows):
            raise PeerRefused("authority-not-valid", "the authority's certificates have expired")
        if not self.revocations.is_current(now):
            raise PeerRefused("revocation-list-not-current", "the revocation list has run out")
        if self.revocations.is_revoked(known.principal.serial):
            raise PeerRefused("revoked", f"the certificate of {name} was revoked")


def check_authority(certificate: x509.Certificate, issuer: x509.Certificate | None = None) -> None:
    """Refuse what is no CA certificate that may sign, and was not signed by `issuer`.

    Args:
        certificate: a root or an issuing CA.
        issuer: who must have signed it; by default itself.

    Raises:
        IdentityError: see above.
    """
    name = certificate.subject.rfc4514_string()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound as error:
        raise IdentityError(f"{name} is no authority's certificate") from error
    if not (constraints.value.ca and usage.value.key_cert_sign):
        raise IdentityError(f"{name} is no authority's certificate")
    try:
        certificate.verify_directly_issued_by(issuer or certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        signer = (issuer or certificate).subject.rfc4514_string()
        raise IdentityError(f"{name} is not signed by {signer}") from error


def _authority_windows(
    roots: Sequence[x509.Certificate], issuing: x509.Certificate
) -> tuple[tuple[datetime, datetime], ...]:
    """Return when the path from each root to the issuing CA counts."""
    windows = []
    for root in roots:
        try:
            check_authority(root)
            check_authority(issuing, root)
        except IdentityError:
            continue
        windows.append(
            (
                max(root.not_valid_before_utc, issuing.not_valid_before_utc),
                min(root.not_valid_after_utc, issuing.not_valid_after_utc),
            )
        )
    if not windows:
        raise IdentityError("no trusted root signed the issuing authority's certificate")
    return tuple(windows)


def _check_client(leaf: x509.Certificate) -> None:
    extensions = leaf.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise PeerRefused("not-a-client", "the peer's certificate does not say its use") from error
    if constraints.ca or usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        raise PeerRefused("not-a-client", "the peer's certificate is an authority's")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise PeerRefused("not-a-client", "the peer's certificate is not for clients")
    known = (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    )
    if any(e.critical and not isinstance(e.value, known) for e in extensions):
        raise PeerRefused("not-a-client", "the peer's certificate has an unknown critical part")


def spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """Return the one URI name of a client's certificate.

    Raises:
        PeerRefused: it has none, several, or one that is no SPIFFE id.
    """
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise PeerRefused("malformed", f"the peer's certificate has {len(uris)} URI names")
        return SpiffeId.parse(uris[0])
    except x509.ExtensionNotFound as error:
        raise PeerRefused("malformed", "the peer's certificate has no URI name") from error
    except PeerRefused:
        raise
    except IdentityError as error:
        raise PeerRefused("malformed", str(error)) from error
