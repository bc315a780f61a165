"""Where everything lies in a trust domain's folder. Names only; nothing is read here.

casemate.toml policy.toml      configuration of the appliance
authority/                     root and issuing keys, the ledger; may be kept elsewhere
trust/                         what the appliance trusts: roots, revocations, signers
server/ log/                   the appliance's own keys
signing/                       keys that sign models
identities/NAME/               what each client needs, ready to be carried to it
store/ audit/                  the appliance's data
"""

from __future__ import annotations

from pathlib import Path


class Layout:
    """The paths of one trust domain; `folder` may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "casemate.toml"
        self.policy = folder / "policy.toml"
        self.authority = folder / "authority"
        self.root_key = self.authority / "root.key"
        self.root_certificate = self.authority / "root.crt"
        self.issuing_key = self.authority / "issuing.key"
        self.issuing_certificate = self.authority / "issuing.crt"
        self.ledger = self.authority / "identities.jsonl"
        # These three exist only between `rotate root` and `rotate root --finish`.
        self.next_root_key = self.authority / "root.next.key"
        self.next_root_certificate = self.authority / "root.next.crt"
        self.next_issuing_certificate = self.authority / "issuing.next.crt"
        self.trust = folder / "trust"
        self.roots = self.trust / "roots.pem"
        self.revocations = self.trust / "issuing.crl"
        self.signers = self.trust / "signers"
        self.log_vkeys = self.trust / "log.vkeys"
        self.server = folder / "server"
        self.server_key = self.server / "server.key"
        self.server_certificate = self.server / "server.crt"
        self.log = folder / "log"
        self.log_key = self.log / "log.key"
        self.cosigner_key = self.log / "cosigner.key"
        self.signing = folder / "signing"
        self.identities = folder / "identities"
        self.store = folder / "store"
        self.audit = folder / "audit"

    def identity(self, name: str) -> Path:
        """Return the folder of a client; `name` was checked."""
        return self.identities / name
