"""Renewing what runs out, without a restart: the server certificate, the issuing CA, the root.

Rotating a root takes two commands, because clients must learn of the new root before
the old one goes:

    stage   1. new root, and a new certificate of it for the same issuing key
            2. trust/roots.pem and each identities/*/roots.pem hold both roots
            3. each identities/*/client.crt chains to the new root
            (carry roots.pem and client.crt to the clients)
    finish  4. server.crt chains to the new root
            5. each roots.pem holds the new root alone
            6. the new files take the old ones' names in authority/

The issuing key stays, so every certificate and revocation list it signed stays valid.
After each step a client that has its new files, and until step 4 one that has not, is
served. Each step is atomic per file and may be repeated: after a crash run the same
command again. `authority/issuing.next.crt` marks a rotation that is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from security.errors import IdentityError, UsageError
from security.files import (
    PUBLIC_MODE,
    create_exclusive,
    locked_folder,
    sync_folder,
    write_atomic,
)
from security.identity.authority import CertifiedKey, create_issuing, create_root, issue_server
from security.identity.domain import TrustDomain, record, server_hosts, server_id
from security.identity.layout import Layout
from security.identity.ledger import Ledger, LedgerEntry
from security.identity.pem import certificates_pem, load_certificates
from security.identity.profile import utc_now
from security.keys import Algorithm, generate, load_private_key, save_private_key


@dataclass(frozen=True, slots=True)
class RootRotation:
    """What a step of a rotation did.

    Attributes:
        old, new: SHA-256 fingerprints of the roots, in hex.
        identities: names of the clients whose files changed.
    """

    old: str
    new: str
    identities: tuple[str, ...]


def renew_server(
    domain: TrustDomain, hosts: Sequence[str] | None = None, now: datetime | None = None
) -> LedgerEntry:
    """Give the server a new key and certificate, for the same hosts unless others are given.

    The certificate is replaced first, then the key: an appliance that sees one without
    the other keeps what it has until they fit. After a crash in between run it again.

    Raises:
        UsageError: a host is neither a DNS name nor an address.
        SecurityError: the present certificate, or the issuing CA, cannot be read.
    """
    now, layout = now or utc_now(), domain.layout
    with locked_folder(layout.authority):
        chain = load_certificates(layout.server_certificate)
        issuing, spiffe_id = domain.issuing(), server_id(chain[0])
        key = generate(Algorithm.ECDSA_P256)
        certificate = issue_server(
            issuing,
            spiffe_id,
            hosts or server_hosts(chain[0]),
            key.public_key(),
            lifetimes=domain.lifetimes,
            now=now,
        )
        entry = record(Ledger(layout.ledger), spiffe_id, certificate)
        staged = layout.server / "server.next.key"
        staged.unlink(missing_ok=True)
        save_private_key(staged, key)
        write_atomic(
            layout.server_certificate, certificates_pem([certificate, issuing.certificate])
        )
        staged.rename(layout.server_key)
        sync_folder(layout.server)
    return entry


def renew_issuing(
    domain: TrustDomain, passphrase: bytes | None = None, now: datetime | None = None
) -> x509.Certificate:
    """Give the issuing CA a new certificate from the root, for the same key.

    Raises:
        UsageError: a rotation of the root is under way (it renews the issuing CA too).
        KeyFileError: the root key is missing, or the passphrase is.
    """
    now, layout = now or utc_now(), domain.layout
    with locked_folder(layout.authority):
        if layout.next_issuing_certificate.exists():
            raise UsageError(
                "a root rotation is under way: finish it with `casemate rotate root --finish`"
            )
        root = _load_root(layout, passphrase)
        key = domain.issuing().key
        issuing = create_issuing(root, domain.name, domain.lifetimes, now, key).certificate
        write_atomic(layout.issuing_certificate, certificates_pem([issuing]))
        _rechain(layout.server_certificate, issuing)
        for folder in _identity_folders(layout):
            _rechain(folder / "client.crt", issuing)
    return issuing


def stage_root(
    domain: TrustDomain, passphrase: bytes | None = None, now: datetime | None = None
) -> RootRotation:
    """Make a second root and let everybody trust both: steps 1 to 3.

    Args:
        passphrase: of the present root key if it is encrypted; encrypts the new one too.

    Raises:
        UsageError: a rotation is past this point already.
        KeyFileError: the present root key is encrypted and the passphrase does not fit.
    """
    now, layout = now or utc_now(), domain.layout
    with locked_folder(layout.authority):
        if not layout.next_issuing_certificate.exists():
            _make_next_root(domain, passphrase, now)
        elif not layout.next_root_certificate.exists():
            raise UsageError("this rotation is being finished: run `casemate rotate root --finish`")
        old = load_certificates(layout.root_certificate)[0]
        new = load_certificates(layout.next_root_certificate)[0]
        issuing = load_certificates(layout.next_issuing_certificate)[0]
        both = certificates_pem([old, new])
        write_atomic(layout.roots, both)
        for folder in _identity_folders(layout):
            write_atomic(folder / "roots.pem", both)
            _rechain(folder / "client.crt", issuing)
        return _rotation(old, new, layout)


def finish_root(domain: TrustDomain) -> RootRotation:
    """Drop the old root: steps 4 to 6.

    Raises:
        UsageError: no rotation was staged.
    """
    layout = domain.layout
    with locked_folder(layout.authority):
        if not layout.next_issuing_certificate.exists():
            raise UsageError("no new root is staged: run `casemate rotate root` first")
        issuing = load_certificates(layout.next_issuing_certificate)[0]
        old = load_certificates(layout.root_certificate)[0]
        renamed = not layout.next_root_certificate.exists()
        new = old if renamed else load_certificates(layout.next_root_certificate)[0]
        _rechain(layout.server_certificate, issuing)
        alone = certificates_pem([new])
        for folder in _identity_folders(layout):
            _rechain(folder / "client.crt", issuing)
            write_atomic(folder / "roots.pem", alone)
        write_atomic(layout.roots, alone)
        # The key first: until the certificate is renamed too, this can be run again.
        for source, target in (
            (layout.next_root_key, layout.root_key),
            (layout.next_root_certificate, layout.root_certificate),
            (layout.next_issuing_certificate, layout.issuing_certificate),
        ):
            if source.exists():
                source.rename(target)
            sync_folder(layout.authority)
        return _rotation(old, new, layout)


def _make_next_root(domain: TrustDomain, passphrase: bytes | None, now: datetime) -> None:
    layout = domain.layout
    if layout.root_key.exists():
        _check_passphrase_kept(layout, passphrase)
    for leftover in (layout.next_root_key, layout.next_root_certificate):
        leftover.unlink(missing_ok=True)
    generation = _generation(load_certificates(layout.root_certificate)[0]) + 1
    root = create_root(domain.name, domain.lifetimes, now, generation)
    key = domain.issuing().key
    issuing = create_issuing(root, domain.name, domain.lifetimes, now, key).certificate
    save_private_key(layout.next_root_key, root.key, passphrase)
    pem = certificates_pem([root.certificate])
    create_exclusive(layout.next_root_certificate, pem, PUBLIC_MODE)
    sync_folder(layout.authority)
    # Marks the rotation, so it comes last, whole.
    write_atomic(layout.next_issuing_certificate, certificates_pem([issuing]))


def _check_passphrase_kept(layout: Layout, passphrase: bytes | None) -> None:
    """Open the present root key: a new root is not to be less protected, or mistyped."""
    load_private_key(layout.root_key, Algorithm.ECDSA_P384, passphrase)


def _load_root(layout: Layout, passphrase: bytes | None) -> CertifiedKey:
    return CertifiedKey(
        load_private_key(layout.root_key, Algorithm.ECDSA_P384, passphrase),
        load_certificates(layout.root_certificate)[0],
    )


def _generation(root: x509.Certificate) -> int:
    """Return the number at the end of a root's name."""
    names = root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    last = str(names[0].value).rsplit(" ", 1)[-1] if names else ""
    if not last.isascii() or not last.isdigit():
        raise IdentityError("the root's name does not end in its number")
    return int(last)


def _identity_folders(layout: Layout) -> list[Path]:
    """Return the folders that still hold a client's files; hidden ones are not finished."""
    return sorted(
        folder
        for folder in layout.identities.iterdir()
        if not folder.name.startswith(".") and (folder / "client.crt").is_file()
    )


def _rechain(path: Path, issuing: x509.Certificate) -> None:
    leaf = load_certificates(path)[0]
    write_atomic(path, certificates_pem([leaf, issuing]))


def _rotation(old: x509.Certificate, new: x509.Certificate, layout: Layout) -> RootRotation:
    names = tuple(folder.name for folder in _identity_folders(layout))
    return RootRotation(fingerprint(old), fingerprint(new), names)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return a certificate's SHA-256 fingerprint in hex."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()
