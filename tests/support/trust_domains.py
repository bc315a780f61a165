"""Real trust domains in temporary folders, and certificates that are wrong in one way each."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.identity.authority import CertifiedKey
from security.identity.creation import Plan, create_trust_domain
from security.identity.domain import TrustDomain
from security.identity.pem import certificates_pem, load_certificates
from security.identity.profile import utc_now
from security.identity.spiffe import SpiffeId
from security.keys import Algorithm, generate

TRUST_DOMAIN = "plant7.example"


def make_domain(
    folder: Path,
    *,
    trust_domain: str = TRUST_DOMAIN,
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
    passphrase: bytes | None = None,
    now: datetime | None = None,
) -> TrustDomain:
    """Create a trust domain as `casemate init` does, without its texts."""
    plan = Plan(
        trust_domain=trust_domain,
        name="casemate",
        hosts=hosts,
        origin=f"{trust_domain}/casemate-log",
        passphrase=passphrase,
    )
    create_trust_domain(folder, plan, now)
    return TrustDomain(folder)


def leaf_pem(identity: Path) -> bytes:
    """Return the first certificate of an identity's chain, as gRPC hands it to a server."""
    return certificates_pem(load_certificates(identity / "client.crt")[:1])


@dataclass(frozen=True)
class Shape:
    """What a client certificate says; the default is what `issue_client` makes."""

    uris: tuple[str, ...] = (f"spiffe://{TRUST_DOMAIN}/device/camera-1",)
    has_names: bool = True
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    has_purposes: bool = True
    has_usage: bool = True
    has_constraints: bool = True
    is_authority: bool = False
    may_sign_certificates: bool = False
    may_sign_revocations: bool = False
    may_sign: bool = True
    unknown_critical: bool = False


Defect = Callable[[Shape], Shape]

# Name of the defect, what it changes, and the reason a verifier gives.
DEFECTS: dict[str, tuple[Defect, str]] = {
    "no-uri-name": (lambda s: replace(s, uris=()), "malformed"),
    "no-names-at-all": (lambda s: replace(s, has_names=False), "malformed"),
    "two-uri-names": (
        lambda s: replace(s, uris=(*s.uris, f"spiffe://{TRUST_DOMAIN}/operator/operator")),
        "malformed",
    ),
    "uri-of-another-scheme": (
        lambda s: replace(s, uris=("https://plant7.example/device/camera-1",)),
        "malformed",
    ),
    "id-without-a-role": (
        lambda s: replace(s, uris=(f"spiffe://{TRUST_DOMAIN}/camera-1",)),
        "malformed",
    ),
    "id-with-a-long-path": (
        lambda s: replace(s, uris=(f"spiffe://{TRUST_DOMAIN}/device/camera-1/x",)),
        "malformed",
    ),
    "id-in-upper-case": (
        lambda s: replace(s, uris=(f"spiffe://{TRUST_DOMAIN}/Device/camera-1",)),
        "malformed",
    ),
    "other-trust-domain": (
        lambda s: replace(s, uris=("spiffe://plant8.example/device/camera-1",)),
        "trust-domain",
    ),
    "trust-domain-as-prefix": (
        lambda s: replace(s, uris=(f"spiffe://{TRUST_DOMAIN}.evil/device/camera-1",)),
        "trust-domain",
    ),
    "for-servers-only": (
        lambda s: replace(s, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        "not-a-client",
    ),
    "for-any-purpose": (
        lambda s: replace(s, purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)),
        "not-a-client",
    ),
    "no-purpose": (lambda s: replace(s, has_purposes=False), "not-a-client"),
    "no-key-usage": (lambda s: replace(s, has_usage=False), "not-a-client"),
    "no-constraints": (lambda s: replace(s, has_constraints=False), "not-a-client"),
    "an-authority": (lambda s: replace(s, is_authority=True), "not-a-client"),
    "may-sign-certificates": (
        lambda s: replace(s, may_sign_certificates=True),
        "not-a-client",
    ),
    "may-sign-revocations": (lambda s: replace(s, may_sign_revocations=True), "not-a-client"),
    "may-not-sign": (
        lambda s: replace(s, may_sign=False, may_sign_revocations=True),
        "not-a-client",
    ),
    "unknown-critical-extension": (lambda s: replace(s, unknown_critical=True), "not-a-client"),
}


def forge(issuing: CertifiedKey, shape: Shape) -> bytes:
    """Sign a client certificate of any shape with a real authority's key; return its PEM."""
    key, now = generate(Algorithm.ECDSA_P256), utc_now()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera-1")]))
        .issuer_name(issuing.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension, critical in _extensions(shape):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuing.key, SHA256()).public_bytes(Encoding.PEM)


def _extensions(shape: Shape) -> list[tuple[x509.ExtensionType, bool]]:
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if shape.has_names:
        names: list[x509.GeneralName] = [x509.DNSName("camera-1")]
        names += [x509.UniformResourceIdentifier(uri) for uri in shape.uris]
        extensions.append((x509.SubjectAlternativeName(names), False))
    if shape.has_constraints:
        constraints = x509.BasicConstraints(ca=shape.is_authority, path_length=None)
        extensions.append((constraints, True))
    if shape.has_usage:
        usage = x509.KeyUsage(
            digital_signature=shape.may_sign,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=shape.may_sign_certificates,
            crl_sign=shape.may_sign_revocations,
            encipher_only=False,
            decipher_only=False,
        )
        extensions.append((usage, True))
    if shape.has_purposes:
        extensions.append((x509.ExtendedKeyUsage(shape.purposes), False))
    if shape.unknown_critical:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
        extensions.append((x509.UnrecognizedExtension(oid, b"\x05\x00"), True))
    return extensions


def device_id(name: str = "camera-1") -> SpiffeId:
    """Return the id of a device of the test domain."""
    return SpiffeId.of(TRUST_DOMAIN, "device", name)


def pem_of(label: str, der: bytes) -> bytes:
    """Wrap any bytes as PEM, well-formed DER or not."""
    return f"-----BEGIN {label}-----\n{b64encode(der).decode()}\n-----END {label}-----\n".encode()


def bit_flips(der: bytes) -> Iterator[bytes]:
    """Yield a copy with one bit flipped, for each byte in turn, in a rotating position."""
    for position in range(len(der)):
        flipped = bytearray(der)
        flipped[position] ^= 1 << (position % 8)
        yield bytes(flipped)
