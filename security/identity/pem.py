"""Certificates in PEM: bounded, and nothing but certificates.

What it refuses: more certificates than a chain or a set of roots has, other PEM
objects beside them (a private key pasted into a public file), and bytes that
`cryptography` cannot parse, lazily parsed parts included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from security.errors import IdentityError
from security.files import MAX_TRUST_FILE_BYTES, read_bounded

# A chain has two certificates and a set of roots two; others may be appended by hand.
MAX_CERTIFICATES = 16
MAX_PEM_BYTES = 64 * 1024

# What `cryptography` raises for malformed X.509; the middle three are no ValueError.
MALFORMED: tuple[type[Exception], ...] = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


def parse_certificates(data: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Parse one or more PEM certificates, in the order of the file.

    Args:
        data: the file's bytes.
        what: names the source in messages.

    Raises:
        IdentityError: see the module's docstring.
    """
    if len(data) > MAX_PEM_BYTES:
        raise IdentityError(f"{what} is larger than {MAX_PEM_BYTES} bytes")
    labels = _BEGIN.findall(data)
    if not labels or len(labels) > MAX_CERTIFICATES:
        raise IdentityError(f"{what} holds {len(labels)} PEM objects, not 1 to {MAX_CERTIFICATES}")
    if any(label != b"CERTIFICATE" for label in labels):
        raise IdentityError(f"{what} holds something else than certificates")
    try:
        certificates = tuple(x509.load_pem_x509_certificates(data))
        for certificate in certificates:
            _parse_all(certificate)
    except MALFORMED as error:
        raise IdentityError(f"{what} holds a malformed certificate") from error
    return certificates


def load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a file.

    Raises:
        SecurityError: the file cannot be read.
        IdentityError: it holds anything but 1 to 16 well-formed certificates.
    """
    return parse_certificates(read_bounded(path, MAX_TRUST_FILE_BYTES), str(path))


def certificates_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Write certificates as PEM, in the order given (a chain starts with the leaf)."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _parse_all(certificate: x509.Certificate) -> None:
    """Touch what `cryptography` parses on demand, so that it fails here or never."""
    _ = certificate.version, certificate.extensions, certificate.subject, certificate.issuer
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc


def require_der_signature(
    signed: x509.Certificate | x509.CertificateRevocationList | x509.CertificateSigningRequest,
    what: str,
) -> None:
    """Refuse a signature whose BIT STRING counts unused bits.

    The count (X.690 8.6.2.2) is covered by no signature and parsers ignore it; DER has 0
    for a whole number of bytes. With it free there would be several encodings of one
    signed object.

    Raises:
        IdentityError: the count is not 0.
    """
    if not signed.public_bytes(Encoding.DER).endswith(b"\x00" + signed.signature):
        raise IdentityError(f"{what} is not in DER")
