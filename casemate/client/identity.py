"""A client's identity folder: its key, its certificate, and whom it talks to.

    client.toml     target, server_name, trust_domain, log_vkeys
    client.key      private key (PKCS#8 PEM), mode 0600
    client.crt      certificate chain, leaf first
    roots.pem       the authorities that may vouch for the appliance
    log.vkeys       the audit log's public keys (optional: receipts are then verified)

Refused: a folder that lacks one of these, a key that others may read, unknown keys
in client.toml. The key is never printed: it is left out of the repr.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from security.errors import IdentityError
from security.files import read_bounded, read_private

MAX_FILE_BYTES = 1 << 20
_REQUIRED = {"target", "server_name"}
_KNOWN = _REQUIRED | {"trust_domain", "log_vkeys"}


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """What a client needs to call an appliance.

    Attributes:
        folder: where it was read from.
        target: "host:port".
        server_name: the name that the appliance's certificate must hold.
        trust_domain: the SPIFFE trust domain, or "".
        key: the private key, PEM.
        chain: the certificate chain, PEM.
        roots: the authorities, PEM.
        log_vkeys: text of the log's verifier keys, or None.
    """

    folder: Path
    target: str
    server_name: str
    trust_domain: str
    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    roots: bytes = field(repr=False)
    log_vkeys: str | None = field(repr=False)

    def principal(self) -> str:
        """Return the SPIFFE id that the certificate holds.

        Raises:
            IdentityError: client.crt holds no such certificate.
        """
        from security.identity.peer import spiffe_id_of
        from security.identity.pem import parse_certificates

        path = self.folder / "client.crt"
        try:
            return str(spiffe_id_of(parse_certificates(self.chain, "it")[0]))
        except IdentityError as error:
            raise IdentityError(f"{path}: {error}") from error


def load_identity(folder: Path | str) -> ClientIdentity:
    """Read an identity folder.

    Raises:
        IdentityError: a file is missing or malformed; the message names it.
        KeyFileError: others may read the private key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise IdentityError(
            f"{folder} is no identity folder; an operator makes one with "
            "'casemate identity issue NAME'"
        )
    settings = _settings(folder / "client.toml")
    return ClientIdentity(
        folder=folder,
        target=settings["target"],
        server_name=settings["server_name"],
        trust_domain=settings.get("trust_domain", ""),
        key=read_private(_present(folder / "client.key"), MAX_FILE_BYTES),
        chain=_read(folder / "client.crt"),
        roots=_read(folder / "roots.pem"),
        log_vkeys=_vkeys(folder, settings.get("log_vkeys")),
    )


def _settings(path: Path) -> dict[str, str]:
    try:
        values = tomllib.loads(_read(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IdentityError(f"{path}: {error}") from error
    unknown = sorted(set(values) - _KNOWN)
    if unknown:
        raise IdentityError(f"{path}: unknown key {unknown[0]!r}")
    missing = sorted(_REQUIRED - set(values))
    if missing:
        raise IdentityError(f"{path}: {missing[0]!r} is missing")
    if not all(isinstance(value, str) for value in values.values()):
        raise IdentityError(f"{path}: every value must be text")
    return values


def _vkeys(folder: Path, name: str | None) -> str | None:
    if name is None:
        return None
    path = folder / name
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise IdentityError(f"{path} is not text") from error


def _present(path: Path) -> Path:
    if not path.exists():
        raise IdentityError(f"{path} is missing: this identity folder is not complete")
    return path


def _read(path: Path) -> bytes:
    try:
        return read_bounded(_present(path), MAX_FILE_BYTES)
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}") from error
