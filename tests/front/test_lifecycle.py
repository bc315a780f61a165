"""Start, stop, reload, a sick audit log; and the real command as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from casemate.cli.templates import POLICY, config_text
from casemate.pb.casemate.v1 import model_pb2, model_pb2_grpc, text_pb2, text_pb2_grpc
from runtime.appliance import Appliance
from runtime.config import Address
from runtime.store.errors import StoreError
from security.audit.entry import parse_entry
from security.errors import AuditError, CasemateError, KeyFileError, UsageError
from security.identity.domain import TrustDomain
from tests.support.appliance import Running, make_config, refusal_of, refused, started, until
from tests.support.trust_domains import TRUST_DOMAIN, make_domain

Code = grpc.StatusCode
GENERATE = text_pb2.GenerateRequest(model="tiny-generate", prompt="hello")


def stub(front: Running, *who: str) -> text_pb2_grpc.TextServiceStub:
    return text_pb2_grpc.TextServiceStub(front.channel(*who))


async def test_running_calls_end_and_new_ones_are_refused_while_draining(tmp_path):
    async with started(tmp_path / "domain", drain_seconds=10) as front:
        host, channel = front.hosts["tiny-generate"], front.channel()
        host.paused = True
        call = text_pb2_grpc.TextServiceStub(channel).Generate(GENERATE)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await until(lambda: len(front.appliance.pipeline.open) == 2)
        stopping = asyncio.create_task(front.appliance.stop())
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await watch.read()
        assert refusal_of(ended.value).reason == "DRAINING"
        refusal = await refused(text_pb2_grpc.TextServiceStub(channel).Generate(GENERATE))
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "DRAINING")
        host.resume()
        assert [m async for m in call][-1].completion.finish_reason == text_pb2.FINISH_REASON_END
        await stopping


async def test_the_drain_ends_calls_that_take_too_long(tmp_path):
    async with started(tmp_path / "domain", drain_seconds=0.1) as front:
        front.hosts["tiny-generate"].paused = True
        call = stub(front).Generate(GENERATE)
        await until(lambda: front.appliance.pipeline.open)
        stopping = asyncio.create_task(front.appliance.stop())
        assert (await refused(call)).reason == "DRAINING"
        await stopping


async def test_an_audit_log_that_takes_nothing_refuses_everything(tmp_path):
    async with started(tmp_path / "domain") as front:
        service, log = stub(front), front.appliance.log
        assert [m async for m in service.Generate(GENERATE)]
        log._fail(OSError(28, "No space left on device"))
        refusal = await refused(service.Generate(GENERATE))
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "AUDIT_UNAVAILABLE")
        check = health_pb2_grpc.HealthStub(front.channel()).Check(health_pb2.HealthCheckRequest())
        assert (await check).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await asyncio.to_thread(log.probe_recovery)
        assert [m async for m in service.Generate(GENERATE)]


async def test_nothing_of_an_answer_leaves_when_the_admission_could_not_be_written(
    tmp_path, monkeypatch
):
    from concurrent.futures import Future

    async with started(tmp_path / "domain") as front:
        service, log = stub(front), front.appliance.log
        assert [m async for m in service.Generate(GENERATE)]
        pending: Future[int] = Future()
        monkeypatch.setattr(log, "append", lambda entry: pending)
        call = service.Generate(GENERATE)
        reading = asyncio.create_task(call.read())
        await until(lambda: len(front.hosts["tiny-generate"].submitted) > 2)
        # The work has begun, the entry is not durable: nothing may be seen.
        done, _ = await asyncio.wait({reading}, timeout=0.2)
        assert not done
        pending.set_exception(AuditError("the disk is full"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await reading
        assert failed.value.code() is Code.UNAVAILABLE


async def test_a_reloaded_policy_counts_from_the_next_call(tmp_path):
    async with started(tmp_path / "domain") as front:
        service, path = stub(front), front.appliance.config.policy
        assert [m async for m in service.Generate(GENERATE)]
        path.write_text("version = 1\n[roles.device]\n")
        front.appliance.reload_policy()
        assert (await refused(service.Generate(GENERATE))).reason == "METHOD_NOT_ALLOWED"
        path.write_text("nonsense")
        front.appliance.reload_policy()
        assert (await refused(service.Generate(GENERATE))).reason == "METHOD_NOT_ALLOWED"
        path.write_text(POLICY)
        front.appliance.reload_policy()
        assert [m async for m in service.Generate(GENERATE)]


async def test_an_operation_is_on_record(tmp_path):
    async with started(tmp_path / "domain") as front:
        service = model_pb2_grpc.ModelServiceStub(front.channel("boss", "operator"))
        request = model_pb2.PromoteVersionRequest(model="tiny-generate", version="1.0.0")
        await service.PromoteVersion(request)
        data = front.appliance.log.entries(0, front.appliance.log.size)
        assert b'"kind":"operation"' in data
        assert b"PromoteVersion tiny-generate 1.0.0" in data


async def test_metrics_have_the_names_and_neither_principals_nor_texts(tmp_path):
    async with started(tmp_path / "domain") as front:
        request = text_pb2.GenerateRequest(model="tiny-generate", prompt="xyzzy-canary")
        assert [m async for m in stub(front, "very-private-name").Generate(request)]
        await refused(stub(front).Generate(text_pb2.GenerateRequest(model="made-up", prompt="x")))
        url = f"http://{front.appliance.metrics_address}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        for name in (
            'casemate_request_success_total{model_name="tiny-generate"} 1.0',
            "casemate_prompt_tokens_total",
            "casemate_generation_tokens_total",
            "casemate_time_to_first_token_seconds_bucket",
            "casemate_inter_token_latency_seconds_bucket",
            "casemate_e2e_request_latency_seconds_bucket",
            "casemate_request_queue_time_seconds_bucket",
            'casemate_denials_total{reason="UNKNOWN_MODEL"} 1.0',
            "casemate_num_requests_running",
            "casemate_kv_cache_usage_perc",
            "casemate_audit_healthy 1.0",
        ):
            assert name in text
        for secret in ("very-private-name", "camera-1", "xyzzy", "made-up"):
            assert secret not in text


class TestWhatCannotStart:
    async def test_a_port_in_use(self, tmp_path):
        async with started(tmp_path / "one", tasks=()) as front:
            config = make_config(tmp_path / "two")
            config = replace(config, listen=Address("127.0.0.1", front.appliance.address.port))
            with pytest.raises(UsageError, match="in use"):
                await Appliance(config).start()
            # What was opened before the failure was given back.
            async with started(tmp_path / "two", tasks=()):
                pass

    async def test_a_second_appliance_on_one_store(self, tmp_path):
        async with started(tmp_path / "one", tasks=()) as front:
            with pytest.raises((AuditError, StoreError)):
                await Appliance(front.appliance.config).start()

    async def test_a_key_others_can_read(self, tmp_path):
        config = make_config(tmp_path / "domain")
        config.tls.key.chmod(0o644)
        with pytest.raises(KeyFileError, match=r"server\.key"):
            Appliance(config)

    async def test_a_missing_certificate(self, tmp_path):
        config = make_config(tmp_path / "domain")
        config.tls.certificate.unlink()
        with pytest.raises(CasemateError, match=r"server\.crt"):
            Appliance(config)


@asynccontextmanager
async def command(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Run `casemate serve` until it is ready; give the process and what it printed."""
    folder = tmp_path / "domain"
    make_domain(folder)
    text = config_text("edge", TRUST_DOMAIN, "127.0.0.1:0").replace(":9464", ":0")
    (folder / "casemate.toml").write_text(text)
    (folder / "policy.toml").write_text(POLICY)
    options = ["--config", str(folder / "casemate.toml"), "--json-logs"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "casemate.cli.main", "serve", *options),
        *("--ready-file", str(tmp_path / "ready")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRPC_")},
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not lines or not lines[-1].startswith("ready"):
                line = (await process.stdout.readline()).decode()
                assert line, (await process.stderr.read() if process.stderr else b"").decode()
                lines.append(line)
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_command_serves_says_so_and_stops_on_sigterm(tmp_path):
    ready = tmp_path / "ready"
    async with command(tmp_path) as (process, lines):
        assert lines[0].startswith("listening on 127.0.0.1:")
        assert "no models installed" in "".join(lines)
        await until(ready.exists)
        assert ready.read_text().strip() in lines[0]
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert not ready.exists()
    for line in errors.decode().splitlines():
        assert {"time", "level", "message"} <= json.loads(line).keys()


async def test_only_tls_13_is_spoken(tmp_path):
    """In a process of its own: gRPC reads the allowed suites once, when it is first used."""
    async with command(tmp_path) as (_, lines):
        port = int(lines[0].split(":")[1].split(" ")[0])
        identity = TrustDomain(tmp_path / "domain").issue("camera-1", "device").folder
        v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        assert await asyncio.to_thread(spoken, port, identity, v12) is None
        assert await asyncio.to_thread(spoken, port, identity, v13) == "TLSv1.3"


def spoken(port: int, identity: Path, version: ssl.TLSVersion) -> str | None:
    """Return the version of a finished handshake, None when it is refused."""
    context = ssl.create_default_context(cafile=str(identity / "roots.pem"))
    context.load_cert_chain(identity / "client.crt", identity / "client.key")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                return secure.version()
        except (ssl.SSLError, ConnectionError):
            return None


async def test_a_real_worker_answers_through_the_whole_path(tmp_path):
    from runtime.models.hosting import worker_hosts
    from runtime.worker.settings import WorkerConfig

    hosts = worker_hosts(WorkerConfig(threads=1))
    async with started(tmp_path / "domain", tasks=("generate", "embed"), hosts=hosts) as front:
        request = text_pb2.GenerateRequest(model="tiny-generate", prompt="hello", max_tokens=8)
        messages = [m async for m in stub(front).Generate(request)]
        assert messages[-1].completion.usage.prompt_tokens > 0
        too_long = text_pb2.GenerateRequest(model="tiny-generate", prompt="hello " * 400)
        refusal = await refused(stub(front).Generate(too_long))
        assert refusal.code is Code.INVALID_ARGUMENT
        vectors = await stub(front).Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=["a"]))
        assert len(vectors.embeddings[0].values) > 0


def test_entries_of_calls_can_be_read_back():
    from runtime.front.stages.entries import operation_entry

    assert parse_entry(operation_entry("policy changed")).detail == "policy changed"


async def test_the_watch_over_peers_and_files_outlives_a_failed_look(tmp_path, monkeypatch, caplog):
    async with started(tmp_path / "domain") as front:
        looks = {"files": 0, "peers": 0}

        def broken(name: str) -> None:
            looks[name] += 1
            raise RuntimeError("canary-of-the-exception")

        monkeypatch.setattr(front.appliance.credentials, "refresh", lambda: broken("files"))
        monkeypatch.setattr(front.appliance.pipeline, "recheck", lambda: broken("peers"))
        await until(lambda: min(looks.values()) >= 2)
        assert "RuntimeError" in caplog.text
        assert "canary-of-the-exception" not in caplog.text
        monkeypatch.undo()
