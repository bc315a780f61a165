"""The authority: makes root, issuing, server and client certificates.

Pure: keys and times in, certificates out; the folder they live in is `domain`'s.
The shape of each certificate is fixed here. A certificate signing request
contributes its public key and nothing else: names, key usage and every other
extension it asks for are ignored, since otherwise its sender would choose them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.errors import IdentityError, UsageError
from security.identity.pem import MALFORMED, require_der_signature
from security.identity.profile import Lifetimes, new_serial
from security.identity.spiffe import APPLIANCE_ROLE, SCHEME, SpiffeId, check_trust_domain
from security.keys import Algorithm, algorithm_of, generate

MAX_HOSTS = 32
MAX_REQUEST_BYTES = 16 * 1024
# X.520 ub-common-name: longer names stand in the URI alone.
MAX_COMMON_NAME_CHARS = 64

_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A private key of an authority and its certificate. The repr shows neither."""

    key: EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)

    def __post_init__(self) -> None:
        if self.key.public_key() != self.certificate.public_key():
            raise IdentityError("an authority's key does not belong to its certificate")

    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """Return the identifier that certificates signed with this key carry."""
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def create_root(
    trust_domain: str, lifetimes: Lifetimes, now: datetime, generation: int = 1
) -> CertifiedKey:
    """Make an offline root: ECDSA P-384, self-signed, may sign one level of CA.

    Args:
        generation: 1, 2, ...: stands in the name, so that two roots are told apart.

    Raises:
        IdentityError: the trust domain's name is not allowed.
    """
    check_trust_domain(trust_domain)
    key = generate(Algorithm.ECDSA_P384)
    name = _name(trust_domain, f"Casemate root {generation}")
    builder = _builder(name, name, key.public_key(), lifetimes.window(lifetimes.root_days, now))
    builder = _as_authority(builder, trust_domain, path_length=1)
    return CertifiedKey(key, builder.sign(key, SHA384()))


def create_issuing(
    root: CertifiedKey,
    trust_domain: str,
    lifetimes: Lifetimes,
    now: datetime,
    key: EllipticCurvePrivateKey | None = None,
) -> CertifiedKey:
    """Make the issuing CA: ECDSA P-256, signs leaf certificates and revocation lists only.

    Args:
        key: an existing issuing key that gets a new certificate: what it signed before
            stays valid. By default a new one is made.
    """
    check_trust_domain(trust_domain)
    key = key or generate(Algorithm.ECDSA_P256)
    window = _inside(lifetimes.window(lifetimes.issuing_days, now), root)
    name = _name(trust_domain, "Casemate issuing")
    builder = _builder(name, root.certificate.subject, key.public_key(), window)
    builder = _as_authority(builder, trust_domain, path_length=0)
    builder = builder.add_extension(root.key_identifier(), critical=False)
    return CertifiedKey(key, builder.sign(root.key, _hash_for(root.key)))


def issue_server(
    issuing: CertifiedKey,
    spiffe_id: SpiffeId,
    hosts: Sequence[str],
    public_key: EllipticCurvePublicKey,
    *,
    lifetimes: Lifetimes,
    now: datetime,
) -> x509.Certificate:
    """Make a server certificate for the given host names and IP addresses.

    Raises:
        UsageError: no host, too many, or one that is neither a DNS name nor an address.
        IdentityError: the id is not an appliance's, or the issuing CA has expired.
    """
    role, _ = spiffe_id.role_and_name()
    if role != APPLIANCE_ROLE:
        raise IdentityError(f"{spiffe_id} is no appliance")
    if not 1 <= len(hosts) <= MAX_HOSTS:
        raise UsageError(f"a server has 1 to {MAX_HOSTS} host names, not {len(hosts)}")
    names = [general_name(host) for host in dict.fromkeys(hosts)]
    window = lifetimes.window(lifetimes.server_days, now)
    return _issue_leaf(
        issuing,
        spiffe_id,
        names,
        public_key,
        purpose=ExtendedKeyUsageOID.SERVER_AUTH,
        window=window,
    )


def issue_client(
    issuing: CertifiedKey,
    spiffe_id: SpiffeId,
    public_key: EllipticCurvePublicKey,
    *,
    lifetimes: Lifetimes,
    now: datetime,
    days: int | None = None,
) -> x509.Certificate:
    """Make a client certificate; `days` replaces the default lifetime.

    Raises:
        UsageError: the number of days is out of range.
        IdentityError: the id is not of the shape we issue, is an appliance's, or the
            issuing CA has expired.
    """
    role, _ = spiffe_id.role_and_name()
    if role == APPLIANCE_ROLE:
        raise IdentityError(f"the role {APPLIANCE_ROLE!r} is for servers; choose another")
    days = lifetimes.client_days if days is None else days
    if not 1 <= days <= lifetimes.issuing_days:
        raise UsageError(f"a client certificate counts for 1 to {lifetimes.issuing_days} days")
    window = lifetimes.window(days, now)
    return _issue_leaf(
        issuing,
        spiffe_id,
        [],
        public_key,
        purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
        window=window,
    )


def public_key_of_request(data: bytes) -> EllipticCurvePublicKey:
    """Return the public key of a PEM certificate signing request (PKCS#10, RFC 2986).

    The request's signature proves that its sender holds the private key. Everything
    else in it is ignored.

    Raises:
        IdentityError: it is no request, its signature is wrong, or its key is not
            ECDSA P-256 or P-384 (the keys that TLS peers have in common).
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise IdentityError(f"a signing request has at most {MAX_REQUEST_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(data)
        require_der_signature(request, "the signing request")
        proven = request.is_signature_valid
        key = request.public_key()
    except MALFORMED as error:
        raise IdentityError("the file is no certificate signing request in PEM") from error
    if not proven:
        raise IdentityError("the signing request's own signature is wrong: no proof of the key")
    if not isinstance(key, EllipticCurvePublicKey) or algorithm_of(key) is None:
        raise IdentityError("the signing request's key is not ECDSA P-256 or P-384")
    return key


def general_name(host: str) -> x509.GeneralName:
    """Return a host as it stands in a certificate.

    Raises:
        UsageError: it is neither an IP address nor a DNS name in lower-case ASCII.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host) and not host.rsplit(".", 1)[-1].isdigit():
            return x509.DNSName(host)
    raise UsageError(f"{host[:80]!a} is neither an IP address nor a lower-case DNS name")


def trust_domain_of(authority: x509.Certificate) -> str:
    """Return the trust domain that an authority's certificate is for.

    Raises:
        IdentityError: it does not carry exactly one SPIFFE id without a path.
    """
    try:
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise IdentityError("the authority's certificate names no trust domain") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or (spiffe_id := SpiffeId.parse(uris[0])).path:
        raise IdentityError("the authority's certificate names no trust domain")
    return spiffe_id.trust_domain


def _issue_leaf(
    issuing: CertifiedKey,
    spiffe_id: SpiffeId,
    names: Sequence[x509.GeneralName],
    public_key: EllipticCurvePublicKey,
    *,
    purpose: x509.ObjectIdentifier,
    window: tuple[datetime, datetime],
) -> x509.Certificate:
    _, common_name = spiffe_id.role_and_name()
    builder = (
        _builder(
            _name(spiffe_id.trust_domain, common_name),
            issuing.certificate.subject,
            public_key,
            _inside(window, issuing),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id)), *names]),
            critical=False,
        )
        .add_extension(issuing.key_identifier(), critical=False)
    )
    return builder.sign(issuing.key, _hash_for(issuing.key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: EllipticCurvePublicKey,
    window: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(new_serial())
        .not_valid_before(window[0])
        .not_valid_after(window[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_authority(
    builder: x509.CertificateBuilder, trust_domain: str, path_length: int
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SCHEME + trust_domain)]),
            critical=False,
        )
    )


def _inside(window: tuple[datetime, datetime], issuer: CertifiedKey) -> tuple[datetime, datetime]:
    """Cut a window to the issuer's own, since nothing outlives who vouches for it."""
    start = max(window[0], issuer.certificate.not_valid_before_utc)
    end = min(window[1], issuer.certificate.not_valid_after_utc)
    if start >= end:
        name = issuer.certificate.subject.rfc4514_string()
        raise IdentityError(f"the authority {name} has expired: renew it with `casemate rotate`")
    return start, end


def _hash_for(key: EllipticCurvePrivateKey) -> SHA256 | SHA384:
    return SHA384() if algorithm_of(key) is Algorithm.ECDSA_P384 else SHA256()


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(trust_domain: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:MAX_COMMON_NAME_CHARS]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:MAX_COMMON_NAME_CHARS]),
        ]
    )
