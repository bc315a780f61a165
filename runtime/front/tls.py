"""The server's side of TLS: 1.3 only, a client certificate always, rotation in place.

gRPC offers no switch for the version, so `restrict_tls` must run before it is first
imported: it allows a single TLS 1.2 suite that needs a pre-shared key nobody has,
which leaves the suites of TLS 1.3. The version is checked again on every call.

Invariant: what is handed to gRPC was parsed, belongs together and is in time; files
that do not pass leave the last good ones in force.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.config import TlsConfig
from security.errors import IdentityError, SecurityError
from security.files import read_bounded, read_private

if TYPE_CHECKING:
    import grpc

_SUITES_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_PSK_ONLY = "ECDHE-PSK-CHACHA20-POLY1305"
_LOG = logging.getLogger("casemate.tls")


def restrict_tls() -> None:
    """Leave TLS 1.3 as the only version; call before anything imports grpc."""
    os.environ[_SUITES_VARIABLE] = _PSK_ONLY


@dataclass(frozen=True, slots=True)
class _Material:
    certificate: bytes
    key: bytes
    roots: bytes


class ServerCredentials:
    """Follows the certificate, key and roots on disk."""

    def __init__(self, config: TlsConfig) -> None:
        """Read the files; raise SecurityError when they cannot be served with."""
        self._config = config
        self._stamp = self._current_stamp()
        self._material = _load(config)
        self.rotations = 0
        self._loaded = self._material

    def _paths(self) -> tuple[Path, ...]:
        return (self._config.certificate, self._config.key, self._config.roots)

    def _current_stamp(self) -> tuple[tuple[int, int, int], ...]:
        stamps = []
        for path in self._paths():
            try:
                status = path.stat()
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)

    def refresh(self) -> bool:
        """Look for changed files; return whether new ones came into force."""
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return False
        # Taken before reading: a file replaced meanwhile is noticed the next time.
        self._stamp = stamp
        try:
            self._material = _load(self._config)
        except SecurityError as error:
            # A key and its certificate are replaced one after the other: until both
            # are there this is expected, and the next look finds them.
            _LOG.warning("the new TLS files are not in force: %s", error)
            return False
        self.rotations += 1
        _LOG.info("new TLS files are in force")
        return True

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that ask this object at every handshake."""
        import grpc

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            # None means "as before"; the stubs leave that out.
            self._fetch,  # type: ignore[arg-type]
            require_client_authentication=True,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new material, or None for "as before". Runs in gRPC's threads; never raises."""
        self.refresh()
        material = self._material
        if material is self._loaded:
            return None
        self._loaded = material
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        material = self._material
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.certificate)], material.roots
        )


def _load(config: TlsConfig) -> _Material:
    """Read and check the three files.

    1. They parse. 2. The key is the certificate's. 3. The certificate is in time.

    Raises:
        SecurityError: naming the file at fault.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    material = _Material(
        read_bounded(config.certificate), read_private(config.key), read_bounded(config.roots)
    )
    name = str(config.certificate)
    try:
        leaf = x509.load_pem_x509_certificates(material.certificate)[0]
        name = str(config.roots)
        x509.load_pem_x509_certificates(material.roots)
        name = str(config.key)
        key = serialization.load_pem_private_key(material.key, password=None)
    except (ValueError, TypeError, IndexError):
        raise IdentityError(f"{name} is no usable PEM file") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise IdentityError(f"{config.key} is not the key of {config.certificate}")
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        raise IdentityError(
            f"{config.certificate} is expired or not valid yet; renew it with: casemate rotate"
        )
    return material
