"""`casemate serve` when its disk takes nothing more: it refuses, says so, and comes back."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from pathlib import Path

import grpc
import psutil
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from casemate.pb.casemate.v1 import model_pb2, model_pb2_grpc
from security.audit.note import parse_vkeys
from security.audit.verify import verify_log
from security.identity.domain import TrustDomain
from tests.front.test_lifecycle import command
from tests.support.appliance import OPTIONS, credentials, refused

PATIENCE_SECONDS = 30.0
Health = health_pb2.HealthCheckResponse


async def test_a_full_disk_refuses_calls_says_so_and_recovers(tmp_path: Path) -> None:
    async with command(tmp_path) as (process, lines):
        domain = TrustDomain(tmp_path / "domain")
        identity = domain.issue("boss", "operator").folder
        port = int(lines[0].split(":")[1].split(" ")[0])
        target = f"127.0.0.1:{port}"
        async with aio.secure_channel(target, credentials(identity), options=OPTIONS) as channel:
            models = model_pb2_grpc.ModelServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel)
            listing = model_pb2.ListModelsRequest()
            await models.ListModels(listing)
            # No file of the process may grow: its own view of a full disk.
            front = psutil.Process(process.pid)
            _, most = front.rlimit(psutil.RLIMIT_FSIZE)
            front.rlimit(psutil.RLIMIT_FSIZE, (0, most))
            seen = await refused(models.ListModels(listing))
            assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
            assert seen.retry_seconds
            assert (
                await health.Check(health_pb2.HealthCheckRequest())
            ).status == Health.NOT_SERVING
            front.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, most))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        await models.ListModels(listing)
                        break
                    except aio.AioRpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                        await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0
    said = [json.loads(line) for line in errors.decode().splitlines()]
    assert any("takes no entries" in line["message"] for line in said)
    assert any("takes entries again" in line["message"] for line in said)
    keys = parse_vkeys(domain.layout.log_vkeys.read_text())
    assert verify_log(tmp_path / "domain" / "audit", keys).entries >= 4
