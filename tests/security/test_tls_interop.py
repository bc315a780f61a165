"""The certificates on a real wire: gRPC server and client with mutual TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import grpc
import pytest

from security.identity.domain import TrustDomain
from security.identity.pem import certificates_pem, load_certificates
from security.identity.profile import utc_now
from security.identity.rotation import finish_root, renew_issuing, renew_server, stage_root
from security.identity.watch import WatchedPeerVerifier
from tests.support.trust_domains import make_domain

CALL_SECONDS = 20.0
METHOD = "/test.Echo/WhoAmI"


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return make_domain(tmp_path / "site")


def _credentials(domain: TrustDomain) -> grpc.ServerCertificateConfiguration:
    layout = domain.layout
    return grpc.ssl_server_certificate_configuration(
        [(layout.server_key.read_bytes(), layout.server_certificate.read_bytes())],
        layout.roots.read_bytes(),
    )


@contextmanager
def _serving(domain: TrustDomain) -> Iterator[int]:
    """Serve one method that answers with the caller's SPIFFE id; reads its files per handshake."""
    layout = domain.layout
    verifier = WatchedPeerVerifier(
        domain.name, layout.roots, layout.server_certificate, layout.revocations
    )

    def who_am_i(request: bytes, context: grpc.ServicerContext) -> bytes:
        # The stubs say bytes; gRPC gives a list of them.
        (pem,) = cast("list[bytes]", context.auth_context()["x509_pem_cert"])
        return verifier.verify(pem).spiffe_id.encode()

    handler = grpc.method_handlers_generic_handler(
        "test.Echo", {"WhoAmI": grpc.unary_unary_rpc_method_handler(who_am_i)}
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    credentials = grpc.dynamic_ssl_server_credentials(
        _credentials(domain), lambda: _credentials(domain), require_client_authentication=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@dataclass(frozen=True)
class ClientFiles:
    """What a client holds, read when it got it."""

    roots: bytes
    key: bytes | None
    chain: bytes | None

    @classmethod
    def of(cls, folder: Path) -> ClientFiles:
        return cls(
            *((folder / name).read_bytes() for name in ("roots.pem", "client.key", "client.crt"))
        )


def _call(port: int, files: ClientFiles, server_name: str = "localhost") -> str:
    credentials = grpc.ssl_channel_credentials(files.roots, files.key, files.chain)
    options = [
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        answer = channel.unary_unary(METHOD, bytes, bytes)(b"", timeout=CALL_SECONDS)
        return bytes(answer).decode()


def _refused(port: int, files: ClientFiles, server_name: str = "localhost") -> bool:
    """Tell whether the connection is refused: with TLS 1.3 a client learns it on its call."""
    with pytest.raises(grpc.RpcError) as caught:
        _call(port, files, server_name)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


def _operator(domain: TrustDomain) -> ClientFiles:
    return ClientFiles.of(domain.layout.identity("operator"))


def test_an_issued_identity_is_served(domain: TrustDomain) -> None:
    issued = domain.issue("camera-1", "device")
    with _serving(domain) as port:
        for server_name in ("localhost", "127.0.0.1"):
            who = _call(port, ClientFiles.of(issued.folder), server_name)
            assert who == "spiffe://plant7.example/device/camera-1"


def test_a_key_made_by_openssl_on_the_device_is_served(domain: TrustDomain, tmp_path: Path) -> None:
    key, request = tmp_path / "client.key", tmp_path / "pump.csr"
    arguments = [
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
        "-nodes",
        "-subj",
        "/CN=any",
    ]
    subprocess.run(
        ["openssl", *arguments, "-keyout", key, "-out", request], check=True, capture_output=True
    )
    issued = domain.issue("pump-3", "device", request=request.read_bytes())
    files = ClientFiles(
        domain.layout.roots.read_bytes(),
        key.read_bytes(),
        (issued.folder / "client.crt").read_bytes(),
    )
    with _serving(domain) as port:
        assert _call(port, files) == "spiffe://plant7.example/device/pump-3"


def _no_certificate(domain: TrustDomain, tmp_path: Path) -> ClientFiles:
    return ClientFiles(domain.layout.roots.read_bytes(), None, None)


def _of_another_authority(domain: TrustDomain, tmp_path: Path) -> ClientFiles:
    stranger = _operator(make_domain(tmp_path / "other"))
    return ClientFiles(domain.layout.roots.read_bytes(), stranger.key, stranger.chain)


def _expired(domain: TrustDomain, tmp_path: Path) -> ClientFiles:
    old = make_domain(tmp_path / "old", now=utc_now() - timedelta(days=10))
    # An authority that is old enough to have issued something that expired: serve with it.
    issued = old.issue("late", "device", days=1, now=utc_now() - timedelta(days=5))
    domain.layout = old.layout
    return ClientFiles.of(issued.folder)


def _not_yet_valid(domain: TrustDomain, tmp_path: Path) -> ClientFiles:
    issued = domain.issue("early", "device", days=1, now=utc_now() + timedelta(days=5))
    return ClientFiles.of(issued.folder)


def _a_servers_certificate(domain: TrustDomain, tmp_path: Path) -> ClientFiles:
    layout = domain.layout
    parts = (layout.roots, layout.server_key, layout.server_certificate)
    return ClientFiles(*(path.read_bytes() for path in parts))


def _without_the_issuing_certificate(domain: TrustDomain, tmp_path: Path) -> ClientFiles:
    folder = domain.layout.identity("operator")
    files = ClientFiles.of(folder)
    leaf = certificates_pem(load_certificates(folder / "client.crt")[:1])
    return ClientFiles(files.roots, files.key, leaf)


@pytest.mark.parametrize(
    "bad",
    [
        _no_certificate,
        _of_another_authority,
        _expired,
        _not_yet_valid,
        _a_servers_certificate,
        _without_the_issuing_certificate,
    ],
)
def test_a_bad_client_is_refused_by_tls_itself(
    domain: TrustDomain, tmp_path: Path, bad: Callable[[TrustDomain, Path], ClientFiles]
) -> None:
    files = bad(domain, tmp_path)
    with _serving(domain) as port:
        assert _refused(port, files)
        assert _call(port, _operator(domain)).endswith("/operator/operator")


def test_a_client_refuses_a_server_it_should_not_trust(domain: TrustDomain, tmp_path: Path) -> None:
    other = make_domain(tmp_path / "other")
    mine = _operator(domain)
    with _serving(domain) as port:
        stranger = ClientFiles(other.layout.roots.read_bytes(), mine.key, mine.chain)
        assert _refused(port, stranger)
        assert _refused(port, mine, "elsewhere.example")
        assert _call(port, mine).endswith("/operator/operator")


def test_a_revoked_client_is_refused_on_its_next_call(domain: TrustDomain) -> None:
    files = ClientFiles.of(domain.issue("camera-1", "device").folder)
    with _serving(domain) as port:
        assert _call(port, files).endswith("/device/camera-1")
        domain.revoke("camera-1")
        with pytest.raises(grpc.RpcError) as caught:
            _call(port, files)
        assert "was revoked" in str(caught.value.details())


def test_everything_is_renewed_while_it_serves(domain: TrustDomain) -> None:
    """Clients keep their old files until the rotation says that they get new ones."""
    before = _operator(domain)
    with _serving(domain) as port:
        renew_server(domain)
        assert _call(port, before).endswith("/operator/operator")
        renew_issuing(domain)
        assert _call(port, before).endswith("/operator/operator")
        stage_root(domain)
        staged = _operator(domain)
        camera = ClientFiles.of(domain.issue("camera-1", "device").folder)
        for files in (before, staged, camera):
            assert _call(port, files)
        finish_root(domain)
        assert _refused(port, before)
        for files in (staged, camera, _operator(domain)):
            assert _call(port, files)
