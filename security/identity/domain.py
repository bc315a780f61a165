"""A trust domain's folder: issue, list and revoke in it.

Every change is made under a lock on `authority/` and in an order that a crash cannot
turn into a certificate that nobody knows of, or into a revocation that is forgotten:

    issue   1. ledger line (durable)   2. the identity's folder, renamed into place
    revoke  1. ledger line (durable)   2. the revocation list, from the whole ledger

A crash between 1 and 2 leaves a ledger line for a certificate that does not exist
(revoke it, issue again), or a list that lags behind (revoke again: it is rewritten).
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from security.errors import IdentityError, SecurityError, UsageError
from security.files import (
    PRIVATE_FOLDER_MODE,
    PUBLIC_MODE,
    create_exclusive,
    locked_folder,
    read_bounded,
    sync_folder,
    write_atomic,
)
from security.identity.authority import (
    CertifiedKey,
    issue_client,
    public_key_of_request,
    trust_domain_of,
)
from security.identity.layout import Layout
from security.identity.ledger import Ledger, LedgerEntry
from security.identity.pem import certificates_pem, load_certificates
from security.identity.profile import Lifetimes, serial_hex, utc_now
from security.identity.revocation import RevocationList, create_revocation_list
from security.identity.spiffe import SpiffeId, check_name
from security.keys import Algorithm, generate, load_private_key, save_private_key


@dataclass(frozen=True, slots=True)
class Issued:
    """What `issue` made: the ledger's entry and the folder to carry to the client."""

    entry: LedgerEntry
    folder: Path


@dataclass(frozen=True, slots=True)
class Revoked:
    """What `revoke` did.

    Attributes:
        entries: the certificates revoked now; empty if only the list was rewritten.
        total: how many certificates the list holds.
    """

    entries: tuple[LedgerEntry, ...]
    total: int


class TrustDomain:
    """The authority's side of a trust domain's folder."""

    def __init__(self, folder: Path, lifetimes: Lifetimes | None = None) -> None:
        """Open a folder that `casemate init` made.

        Raises:
            IdentityError: it is no trust domain, or its authority is malformed.
            SecurityError: the authority's certificate cannot be read.
        """
        self.layout = Layout(folder)
        self.lifetimes = lifetimes or Lifetimes()
        if not self.layout.issuing_certificate.is_file():
            raise IdentityError(
                f"{folder} is no trust domain: it lacks authority/issuing.crt. "
                f"Make one with `casemate init {folder}`"
            )
        self.name = trust_domain_of(load_certificates(self.layout.issuing_certificate)[0])

    def issuing(self) -> CertifiedKey:
        """Load the issuing CA.

        Raises:
            SecurityError: its key or certificate cannot be read, or do not fit together.
        """
        return CertifiedKey(
            load_private_key(self.layout.issuing_key, Algorithm.ECDSA_P256),
            load_certificates(self.layout.issuing_certificate)[0],
        )

    def client_chain(self) -> x509.Certificate:
        """Return the issuing CA's certificate that clients send with their own.

        While roots are rotated that is the one the new root signed, so that what a
        client gets today still works when the old root is dropped.
        """
        staged = self.layout.next_issuing_certificate
        path = staged if staged.exists() else self.layout.issuing_certificate
        return load_certificates(path)[0]

    def issue(
        self,
        name: str,
        role: str,
        *,
        request: bytes | None = None,
        days: int | None = None,
        renew: bool = False,
        extra_files: Mapping[str, bytes] | None = None,
        now: datetime | None = None,
    ) -> Issued:
        """Issue a client identity into `identities/NAME/`.

        Args:
            name: the client's name.
            role: the client's role; what it may do is said by the policy.
            request: a PEM signing request; then no private key is made here.
            days: how long the certificate counts, by default `Lifetimes.client_days`.
            renew: allow it while an earlier certificate of that name is active; that one
                counts until it expires.
            extra_files: further public files for the folder, by name.
            now: the time of issue.

        Raises:
            IdentityError: the name, role or request is refused, or the name is active.
            UsageError: the number of days is out of range.
        """
        now = now or utc_now()
        spiffe_id = SpiffeId.of(self.name, role, name)
        with locked_folder(self.layout.authority):
            ledger = Ledger(self.layout.ledger)
            active = ledger.active(name, now)
            if active and not renew:
                raise IdentityError(
                    f"{active[0].spiffe_id} is active until {active[0].not_after}: revoke it "
                    f"first, or renew it with --renew"
                )
            issuing = self.issuing()
            key = None if request is not None else generate(Algorithm.ECDSA_P256)
            public_key = key.public_key() if key else public_key_of_request(request or b"")
            certificate = issue_client(
                issuing, spiffe_id, public_key, lifetimes=self.lifetimes, now=now, days=days
            )
            entry = record(ledger, spiffe_id, certificate)
            with replaced_folder(self.layout.identity(name)) as folder:
                if key:
                    save_private_key(folder / "client.key", key)
                chain = certificates_pem([certificate, self.client_chain()])
                create_exclusive(folder / "client.crt", chain, PUBLIC_MODE)
                roots = read_bounded(self.layout.roots)
                create_exclusive(folder / "roots.pem", roots, PUBLIC_MODE)
                for file_name, data in (extra_files or {}).items():
                    create_exclusive(folder / file_name, data, PUBLIC_MODE)
        return Issued(entry, self.layout.identity(name))

    def entries(self) -> list[LedgerEntry]:
        """Return every certificate of the ledger, as it stands now."""
        return Ledger(self.layout.ledger).entries()

    def revoke(self, name: str, now: datetime | None = None) -> Revoked:
        """Revoke the active certificates of a client and rewrite the revocation list.

        Revoking a client that is revoked already rewrites the list and is no error.

        Raises:
            UsageError: no certificate was ever issued to that name, or all expired.
        """
        now = now or utc_now()
        check_name(name)
        with locked_folder(self.layout.authority):
            ledger = Ledger(self.layout.ledger)
            active = ledger.active(name, now)
            known = [e for e in ledger.entries() if e.name == name and e.revoked_at is not None]
            if not active and not known:
                raise UsageError(
                    f"no active certificate of {name!r} to revoke: see `casemate identity list`"
                )
            revoked = tuple(entry.revoked(now) for entry in active)
            if revoked:
                ledger.append(*revoked)
            self.write_revocations(ledger, now)
        return Revoked(revoked, len(ledger.revocations()))

    def refresh_revocations(self, now: datetime | None = None) -> Revoked:
        """Make a new revocation list from the ledger, which counts from now on."""
        with locked_folder(self.layout.authority):
            ledger = Ledger(self.layout.ledger)
            self.write_revocations(ledger, now or utc_now())
        return Revoked((), len(ledger.revocations()))

    def write_revocations(self, ledger: Ledger, now: datetime) -> None:
        """Replace the revocation list atomically; call it with the lock held.

        Its number is above that of the list before, and at least the ledger's number of
        lines, which only grows: a list that was lost or damaged is replaced by a newer one.
        """
        issuing = self.issuing()
        number = ledger.line_count + 1
        # A list that cannot be read is what this call repairs.
        with contextlib.suppress(SecurityError):
            data = read_bounded(self.layout.revocations)
            before = RevocationList.parse(data, issuing.certificate)
            number = max(number, before.number + 1)
        data = create_revocation_list(issuing, ledger.revocations(), number, self.lifetimes, now)
        write_atomic(self.layout.revocations, data)


def record(ledger: Ledger, spiffe_id: SpiffeId, certificate: x509.Certificate) -> LedgerEntry:
    """Write a new certificate into the ledger, before it is handed out."""
    entry = LedgerEntry.of(
        serial_hex(certificate.serial_number),
        spiffe_id,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    ledger.append(entry)
    return entry


@contextlib.contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a new private folder that takes the place of `target` at the end.

    If the block raises, `target` is as before. A crash leaves the old folder or the
    new one whole, or in the instant between the two renames only their hidden copies.
    """
    parent, mark = target.parent, secrets.token_hex(8)
    staging, aside = (parent / f".{target.name}.{kind}.{mark}" for kind in ("new", "old"))
    staging.mkdir(mode=PRIVATE_FOLDER_MODE)
    try:
        yield staging
        sync_folder(staging)
        if target.exists():
            target.rename(aside)
        staging.rename(target)
        sync_folder(parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def server_id(certificate: x509.Certificate) -> SpiffeId:
    """Return the SPIFFE id of an appliance's certificate.

    Raises:
        IdentityError: it does not have exactly one.
    """
    uris = _names(certificate).get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError("the server certificate does not name one appliance")
    return SpiffeId.parse(uris[0])


def server_hosts(certificate: x509.Certificate) -> list[str]:
    """Return the host names, then the addresses, of a server certificate.

    Raises:
        IdentityError: it has no names.
    """
    names = _names(certificate)
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)]


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise IdentityError("the server certificate has no names") from error
