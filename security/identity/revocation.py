"""Revocation lists: made by the issuing CA, verified before one serial is believed.

A list is an X.509 CRL (RFC 5280 section 5) in PEM. What is refused: another issuer, a
bad signature, a list that is not yet or no longer current, a list without nextUpdate
or CRL number, critical extensions that we do not know, delta and indirect lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from security.errors import IdentityError
from security.files import read_bounded
from security.identity.authority import CertifiedKey
from security.identity.pem import MALFORMED, require_der_signature
from security.identity.profile import Lifetimes, utc_now

MAX_REVOCATIONS = 100_000


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A revocation list whose signature was verified.

    Attributes:
        number: grows with every list that one authority makes (RFC 5280 5.2.3).
        this_update, next_update: when it was made, and until when it counts.
        serials: the revoked serial numbers.
    """

    number: int
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]

    @classmethod
    def load(cls, path: Path, issuing: x509.Certificate) -> RevocationList:
        """Read and verify a list, and refuse one that is not current.

        Raises:
            SecurityError: the file cannot be read.
            IdentityError: the list is refused.
        """
        revocations = cls.parse(read_bounded(path), issuing, str(path))
        if not revocations.is_current():
            raise IdentityError(
                f"the revocation list {path} is not current: it ran out, or this clock is wrong; "
                f"make a new one with `casemate identity revoke --refresh`"
            )
        return revocations

    @classmethod
    def parse(
        cls, data: bytes, issuing: x509.Certificate, what: str = "revocation list"
    ) -> RevocationList:
        """Verify a list in PEM against the certificate of its issuer.

        Raises:
            IdentityError: it is malformed, of a kind we refuse, or not signed by `issuing`.
        """
        try:
            crl = x509.load_pem_x509_crl(data)
            require_der_signature(crl, what)
            # 1. Signed by the issuing CA, under its name (RFC 5280 6.3.3 (f), (g)).
            key = issuing.public_key()
            if crl.issuer != issuing.subject:
                raise IdentityError(f"{what} is of another authority")
            if not isinstance(key, EllipticCurvePublicKey) or not crl.is_signature_valid(key):
                raise IdentityError(f"{what} is not signed by this authority")
            # 2. A full, direct list: the two extensions we know and no others that matter.
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            known = (x509.CRLNumber, x509.AuthorityKeyIdentifier)
            if any(e.critical and not isinstance(e.value, known) for e in crl.extensions):
                raise IdentityError(f"{what} has a critical extension that is not understood")
            # 3. It says until when it counts.
            if crl.next_update_utc is None:
                raise IdentityError(f"{what} does not say until when it counts")
            if len(crl) > MAX_REVOCATIONS:
                raise IdentityError(f"{what} holds more than {MAX_REVOCATIONS} certificates")
            serials = frozenset(entry.serial_number for entry in crl)
            return cls(number, crl.last_update_utc, crl.next_update_utc, serials)
        except MALFORMED as error:
            raise IdentityError(f"{what} is malformed") from error
        except x509.ExtensionNotFound as error:
            raise IdentityError(f"{what} has no CRL number") from error

    def is_revoked(self, serial: int) -> bool:
        """Tell whether a serial number is on the list; ask `is_current` too."""
        return serial in self.serials

    def is_current(self, now: datetime | None = None) -> bool:
        """Tell whether the list counts at `now` (by default the present)."""
        return self.this_update <= (now or utc_now()) <= self.next_update


def create_revocation_list(
    issuing: CertifiedKey,
    revoked: Mapping[int, datetime],
    number: int,
    lifetimes: Lifetimes,
    now: datetime,
) -> bytes:
    """Sign a list.

    Args:
        issuing: the issuing CA.
        revoked: serial number to time of revocation.
        number: greater than that of any list before.
        lifetimes: `crl_days` says how long it counts.
        now: the time it is made; like certificates it starts a little earlier.

    Returns:
        The list in PEM.
    """
    start, end = lifetimes.window(lifetimes.crl_days, now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuing.certificate.subject)
        .last_update(start)
        .next_update(end)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(issuing.key_identifier(), critical=False)
    )
    for serial, moment in sorted(revoked.items()):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()
        )
    return builder.sign(issuing.key, SHA256()).public_bytes(Encoding.PEM)
