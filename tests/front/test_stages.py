"""Every RPC there is passes every stage, in order; exemptions are named."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from casemate.pb import pool
from casemate.pb.casemate.v1 import audit_pb2, model_pb2, text_pb2
from casemate.pb.inference import inference_pb2
from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.front.pipeline import STAGES
from runtime.front.registry import UNAUDITED
from runtime.front.spec import Kind
from security.audit.entry import parse_entry
from tests.support.appliance import Running, text_tensor

pytestmark = pytest.mark.asyncio(loop_scope="module")

ARCHITECTURE = (
    "authenticate", "authorize", "admit", "filter_in", "audit_in",
    "dispatch", "filter_out", "audit_out", "receipt",
)  # fmt: skip
T, M, A = "casemate.v1.TextService/", "casemate.v1.ModelService/", "casemate.v1.AuditService/"
OIP, H = "inference.GRPCInferenceService/", "grpc.health.v1.Health/"
REQUESTS = {
    T + "Generate": text_pb2.GenerateRequest(model="tiny-generate", prompt="hello"),
    T + "Score": text_pb2.ScoreRequest(model="tiny-generate", texts=["hello"]),
    T + "Embed": text_pb2.EmbedRequest(model="tiny-embed", inputs=["hello"]),
    T + "Classify": text_pb2.ClassifyRequest(model="tiny-classify", inputs=["hello"]),
    M + "ListModels": model_pb2.ListModelsRequest(),
    M + "DescribeModel": model_pb2.DescribeModelRequest(model="tiny-embed"),
    M + "InstallBundle": model_pb2.InstallBundleRequest(incoming="nothing-here"),
    M + "PromoteVersion": model_pb2.PromoteVersionRequest(model="tiny-embed", version="1.0.0"),
    M + "RollbackModel": model_pb2.RollbackModelRequest(model="tiny-embed"),
    A + "GetCheckpoint": audit_pb2.GetCheckpointRequest(),
    A + "GetInclusionProof": audit_pb2.GetInclusionProofRequest(index=0),
    A + "GetConsistencyProof": audit_pb2.GetConsistencyProofRequest(old_size=1),
    A + "GetTile": audit_pb2.GetTileRequest(width=1),
    A + "GetEntries": audit_pb2.GetEntriesRequest(width=1),
    OIP + "ServerLive": inference_pb2.ServerLiveRequest(),
    OIP + "ServerReady": inference_pb2.ServerReadyRequest(),
    OIP + "ServerMetadata": inference_pb2.ServerMetadataRequest(),
    OIP + "ModelReady": inference_pb2.ModelReadyRequest(name="tiny-embed"),
    OIP + "ModelMetadata": inference_pb2.ModelMetadataRequest(name="tiny-tensor"),
    OIP + "ModelInfer": text_tensor("tiny-embed", b"hello"),
    H + "Check": health_pb2.HealthCheckRequest(),
    H + "List": health_pb2.HealthListRequest(),
    H + "Watch": health_pb2.HealthCheckRequest(),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (
        reflection_pb2.ServerReflectionRequest(list_services="")
    ),
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": (
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=T[:-1])
    ),
}
# Refused by the stage that does the work, in this set-up: nothing to install or go back to.
REFUSED = {M + "InstallBundle", M + "RollbackModel"}


def declared() -> set[str]:
    """Every method of every service in the descriptors."""
    files = [
        pool.POOL.FindFileByName(f"casemate/v1/{name}.proto") for name in ("text", "model", "audit")
    ]
    files += [
        pool.POOL.FindFileByName("inference/inference.proto"),
        health_pb2.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
    ]
    return {
        f"{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


async def test_the_stages_are_those_of_the_architecture():
    assert STAGES == ARCHITECTURE


async def test_every_declared_rpc_is_served_and_tested(front: Running):
    specs = front.appliance.specs
    assert declared() <= set(specs)
    assert set(specs) == set(REQUESTS)
    assert set(specs) - declared() == {"grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_rpc_passes_every_stage(front: Running, name: str, monkeypatch):
    spec = front.appliance.specs[name]
    channel: Any = front.channel("boss", "operator")
    if name.startswith(A):  # the log must hold something that can be asked for
        listing = front.appliance.specs[M + "ListModels"]
        await channel.unary_unary(
            f"/{M}ListModels", listing.request.SerializeToString, listing.response.FromString
        )(REQUESTS[M + "ListModels"])
    calls: list[Call] = []
    monkeypatch.setattr(front.appliance.metrics, "observe", calls.append)
    before = front.appliance.log.size
    code = (spec.request.SerializeToString, spec.response.FromString)
    if spec.kind is Kind.UNARY:
        try:
            await channel.unary_unary(f"/{name}", *code)(REQUESTS[name])
        except Exception:
            assert name in REFUSED
    elif name.endswith("Watch"):
        call = channel.unary_stream(f"/{name}", *code)(REQUESTS[name])
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        front.appliance.pipeline.end(next(iter(front.appliance.pipeline.open)), _ended())
        with pytest.raises(Exception, match="over"):
            await call.read()
    elif spec.kind is Kind.SERVER_STREAM:
        assert [m async for m in channel.unary_stream(f"/{name}", *code)(REQUESTS[name])]
    else:
        call = channel.stream_stream(f"/{name}", *code)(iter([REQUESTS[name]]))
        assert [m async for m in call]
    (call,) = calls
    skipped = {"filter_out"} if name in REFUSED or name.endswith("Watch") else set()
    assert call.stages == [stage for stage in ARCHITECTURE if stage not in skipped]
    entries = [
        parse_entry(entry)
        for entry in _entries(front, before)
        if parse_entry(entry).request_id == call.request_id
    ]
    kinds = [entry.kind for entry in entries if entry.kind != "operation"]
    if name in UNAUDITED and not skipped:
        assert kinds == []
    elif name in UNAUDITED:
        assert kinds == ["denied"]
    else:
        assert kinds == ["admitted", "completed"]
        assert entries[0].request_commitment == entries[-1].request_commitment != ""


def _ended() -> Refusal:
    return Refusal(grpc.StatusCode.UNAVAILABLE, "OVER", "over")


def _entries(front: Running, start: int) -> list[bytes]:
    log = front.appliance.log
    entries: list[bytes] = []
    for bundle in range(start // 256, (log.size + 255) // 256):
        data = log.entries(bundle, min(256, log.size - 256 * bundle))
        while data:
            length = int.from_bytes(data[:2], "big")
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
    return entries


async def test_only_probes_that_carry_nothing_are_unaudited_and_each_says_why():
    assert set(UNAUDITED) == {
        *(H + name for name in ("Check", "List", "Watch")),
        *(OIP + name for name in ("ServerLive", "ServerReady", "ModelReady")),
    }
    assert all(len(reason) > 20 for reason in UNAUDITED.values())
