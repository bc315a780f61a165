"""Who may connect: versions, certificates, revocation and rotation, on open connections too."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from security.identity.pem import certificates_pem
from security.identity.profile import utc_now
from security.identity.rotation import renew_server
from security.keys import Algorithm, generate
from tests.support.appliance import (
    OPTIONS,
    Running,
    credentials,
    refusal_of,
    refused,
    started,
    until,
)
from tests.support.trust_domains import leaf_pem, make_domain

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode


async def check(channel: aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=5.0)).status)


async def refusal(channel: aio.Channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return await refused(stub.Check(health_pb2.HealthCheckRequest(), timeout=5.0))


async def test_a_good_certificate_is_answered(front: Running):
    assert await check(front.channel()) == health_pb2.HealthCheckResponse.SERVING


async def test_plaintext_is_refused(front: Running):
    async with aio.insecure_channel(front.target, options=OPTIONS[1:]) as channel:
        assert (await refusal(channel)).code is Code.UNAVAILABLE


async def test_no_certificate_is_refused(front: Running):
    roots = front.domain.layout.roots.read_bytes()
    async with aio.secure_channel(
        front.target, grpc.ssl_channel_credentials(roots), options=OPTIONS
    ) as channel:
        assert (await refusal(channel)).code is Code.UNAVAILABLE


async def test_a_foreign_authoritys_certificate_is_refused(front: Running, tmp_path):
    other = make_domain(tmp_path / "other")
    other.issue("camera-1", "device")
    stranger = other.layout.identity("camera-1")
    (stranger / "roots.pem").chmod(0o644)
    (stranger / "roots.pem").write_bytes(front.domain.layout.roots.read_bytes())
    async with aio.secure_channel(front.target, credentials(stranger), options=OPTIONS) as channel:
        assert (await refusal(channel)).code is Code.UNAVAILABLE


async def test_a_call_over_another_version_is_refused_even_if_the_handshake_passed(front: Running):
    from runtime.front.call import Call, Peer
    from runtime.front.errors import Refusal
    from runtime.front.stages.authenticate import Authenticate

    async def send(_message: object) -> None:
        return None

    spec = front.appliance.specs["grpc.health.v1.Health/Check"]
    call = Call(spec, None, Peer(b"", "TLSv1.2"), None, send)
    with pytest.raises(Refusal, match="TLS_VERSION"):
        Authenticate(front.appliance.parts)(call)


async def test_an_expired_certificate_is_refused(front: Running):
    key, issuing = generate(Algorithm.ECDSA_P256), front.domain.issuing()
    good = x509.load_pem_x509_certificate(leaf_pem(front.identity("camera-1")))
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_now() - timedelta(minutes=2))
        .not_valid_after(utc_now() - timedelta(minutes=1))
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    expired = builder.sign(issuing.key, SHA256())
    pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with_expired = grpc.ssl_channel_credentials(
        front.domain.layout.roots.read_bytes(),
        key.private_bytes(*pem),
        certificates_pem([expired, issuing.certificate]),
    )
    async with aio.secure_channel(front.target, with_expired, options=OPTIONS) as channel:
        assert (await refusal(channel)).code is Code.UNAVAILABLE


async def test_an_open_connection_outlives_neither_expiry_nor_revocation(front: Running):
    channel = front.channel("thief")
    assert await check(channel)
    front.domain.revoke("thief")
    async with asyncio.timeout(1.0):
        while True:
            try:
                await check(channel)
            except aio.AioRpcError as error:
                seen = refusal_of(error)
                break
    assert (seen.code, seen.reason) == (Code.UNAUTHENTICATED, "CERTIFICATE_REVOKED")


async def test_an_open_stream_ends_within_a_second_of_its_revocation(front: Running):
    host = front.hosts["tiny-generate"]
    channel = front.channel("spy")
    host.paused = True
    try:
        service = text_pb2_grpc.TextServiceStub(channel)
        call = service.Generate(text_pb2.GenerateRequest(model="tiny-generate", prompt="x"))
        await until(lambda: front.appliance.pipeline.open)
        before = len(host.cancelled)
        front.domain.revoke("spy")
        async with asyncio.timeout(1.0):
            seen = await refused(call)
        assert (seen.code, seen.reason) == (Code.UNAUTHENTICATED, "CERTIFICATE_REVOKED")
        assert len(host.cancelled) == before + 1
    finally:
        host.resume()


async def test_the_servers_certificate_is_renewed_without_a_restart(tmp_path):
    async with started(tmp_path / "domain", tasks=()) as front:
        old = await asyncio.to_thread(served_serial, front)
        assert await check(front.channel())
        renew_server(front.domain)
        assert await asyncio.to_thread(served_serial, front) != old
        assert await check(front.channel("camera-2"))
        renewed = await asyncio.to_thread(served_serial, front)
        # Garbage leaves the last good certificate in force.
        layout = front.domain.layout
        layout.server_certificate.unlink()
        layout.server_certificate.write_text("garbage")
        assert await asyncio.to_thread(served_serial, front) == renewed
        assert await check(front.channel("camera-3"))


def served_serial(front: Running) -> int:
    """Return the serial number of the certificate the server shows now."""
    identity = front.identity("camera-1")
    context = ssl.create_default_context(cafile=str(identity / "roots.pem"))
    context.load_cert_chain(identity / "client.crt", identity / "client.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", front.appliance.address.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number
