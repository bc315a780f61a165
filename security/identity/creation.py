"""Making a trust domain: all of it, or nothing.

Everything is built in a hidden folder beside the target and flushed; then one rename
puts it in place. A crash before the rename leaves the hidden folder, which nothing
reads; an error removes it. What it refuses: a target that exists and is not empty.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from security.audit.signer import verifier_lines
from security.errors import UsageError
from security.files import (
    PRIVATE_FOLDER_MODE,
    PRIVATE_MODE,
    PUBLIC_MODE,
    create_exclusive,
    sync_folder,
    sync_tree,
)
from security.identity.authority import create_issuing, create_root, issue_server
from security.identity.domain import TrustDomain, record
from security.identity.layout import Layout
from security.identity.ledger import Ledger
from security.identity.pem import certificates_pem
from security.identity.profile import Lifetimes, utc_now
from security.identity.spiffe import APPLIANCE_ROLE, SpiffeId
from security.keys import Algorithm, PrivateKey, generate, public_pem, save_private_key

PUBLIC_FOLDER_MODE = 0o755
OPERATOR = "operator"
RELEASE_SIGNER = "release"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make.

    Attributes:
        trust_domain: its SPIFFE name.
        name: the appliance's name.
        hosts: DNS names and addresses that clients reach the appliance by.
        origin: the audit log's name.
        passphrase: encrypts the root key, if given. Never shown.
        files: texts to put in, by name relative to the folder.
        client_files: further files of the operator's folder, by name.
        lifetimes: how long the certificates count.
    """

    trust_domain: str
    name: str
    hosts: tuple[str, ...]
    origin: str
    passphrase: bytes | None = field(default=None, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
    client_files: Mapping[str, bytes] = field(default_factory=dict)
    lifetimes: Lifetimes = field(default_factory=Lifetimes)


def create_trust_domain(folder: Path, plan: Plan, now: datetime | None = None) -> Layout:
    """Make a trust domain in `folder`, which does not exist or is empty.

    Raises:
        UsageError: the folder is not empty, its parent does not exist, or a host is bad.
        IdentityError: a name is not allowed.
        OSError: the disk refused; nothing is left.
    """
    folder = folder.absolute()
    _check_target(folder)
    staging = folder.parent / f".{folder.name}.init.{secrets.token_hex(8)}"
    staging.mkdir(mode=PRIVATE_FOLDER_MODE)
    try:
        _build(Layout(staging), plan, now or utc_now())
        staging.chmod(PUBLIC_FOLDER_MODE)
        sync_tree(staging)
        try:
            # Takes the place of an empty folder; fails if anything was put in meanwhile.
            staging.rename(folder)
        except OSError as error:
            raise UsageError(f"{folder} is not an empty folder any more") from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return Layout(folder)


def _check_target(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise UsageError(f"the folder {folder.parent} does not exist")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} exists and is no folder")
    if folder.is_dir() and any(os.scandir(folder)):
        raise UsageError(f"{folder} is not empty: choose another folder, nothing was changed")


def _build(layout: Layout, plan: Plan, now: datetime) -> None:
    private = (layout.authority, layout.server, layout.log, layout.signing, layout.identities)
    for folder in (*private, layout.store, layout.audit):
        folder.mkdir(mode=PRIVATE_FOLDER_MODE)
    for folder in (layout.trust, layout.signers):
        folder.mkdir(mode=PUBLIC_FOLDER_MODE)
    for name, text in plan.files.items():
        create_exclusive(layout.folder / name, text.encode(), PUBLIC_MODE)
    _build_authority(layout, plan, now)
    vkeys = _build_log(layout, plan.origin)
    _build_signer(layout, RELEASE_SIGNER)
    domain = TrustDomain(layout.folder, plan.lifetimes)
    _build_server(domain, plan, now)
    extra = {**plan.client_files, "log.vkeys": vkeys}
    domain.issue(OPERATOR, OPERATOR, extra_files=extra, now=now)
    domain.write_revocations(Ledger(layout.ledger), now)


def _build_authority(layout: Layout, plan: Plan, now: datetime) -> None:
    root = create_root(plan.trust_domain, plan.lifetimes, now)
    issuing = create_issuing(root, plan.trust_domain, plan.lifetimes, now)
    save_private_key(layout.root_key, root.key, plan.passphrase)
    save_private_key(layout.issuing_key, issuing.key)
    root_pem = certificates_pem([root.certificate])
    create_exclusive(layout.root_certificate, root_pem, PUBLIC_MODE)
    create_exclusive(layout.roots, root_pem, PUBLIC_MODE)
    issuing_pem = certificates_pem([issuing.certificate])
    create_exclusive(layout.issuing_certificate, issuing_pem, PUBLIC_MODE)
    create_exclusive(layout.ledger, b"", PRIVATE_MODE)


def _build_log(layout: Layout, origin: str) -> bytes:
    key, cosigner = generate(Algorithm.ED25519), generate(Algorithm.MLDSA44)
    save_private_key(layout.log_key, key)
    save_private_key(layout.cosigner_key, cosigner)
    vkeys = verifier_lines(origin, key.public_key(), cosigner.public_key()).encode()
    create_exclusive(layout.log_vkeys, vkeys, PUBLIC_MODE)
    return vkeys


def _build_signer(layout: Layout, name: str) -> None:
    pairs: tuple[tuple[str, PrivateKey], ...] = (
        ("ecdsa", generate(Algorithm.ECDSA_P256)),
        ("mldsa65", generate(Algorithm.MLDSA65)),
    )
    for kind, key in pairs:
        save_private_key(layout.signing / f"{name}.{kind}.key", key)
        create_exclusive(layout.signers / f"{name}.{kind}.pem", public_pem(key), PUBLIC_MODE)


def _build_server(domain: TrustDomain, plan: Plan, now: datetime) -> None:
    layout, issuing = domain.layout, domain.issuing()
    key = generate(Algorithm.ECDSA_P256)
    spiffe_id = SpiffeId.of(plan.trust_domain, APPLIANCE_ROLE, plan.name)
    certificate = issue_server(
        issuing, spiffe_id, plan.hosts, key.public_key(), lifetimes=plan.lifetimes, now=now
    )
    record(Ledger(layout.ledger), spiffe_id, certificate)
    save_private_key(layout.server_key, key)
    chain = certificates_pem([certificate, issuing.certificate])
    create_exclusive(layout.server_certificate, chain, PUBLIC_MODE)
