"""What only holds when every part is real: certificates, stages, workers, engines."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import struct
import urllib.request
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from casemate.pb.inference import inference_pb2, inference_pb2_grpc
from runtime.front.call import Call, Peer
from runtime.models.hosting import worker_hosts
from runtime.worker.host import ModelHost
from runtime.worker.settings import WorkerConfig
from security.identity import watch
from security.identity.peer import PeerVerifier
from security.identity.profile import utc_now
from tests.front.conftest import POLICY
from tests.support import appliance as support
from tests.support.appliance import Running, refused, started, until
from tests.support.trust_domains import leaf_pem

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode
PATIENCE_SECONDS = 60.0
CONFIG = WorkerConfig(
    threads=1,
    max_sequences=4,
    heartbeat_seconds=0.2,
    # Generous: a busy machine must not look like a hung worker.
    missed_heartbeats=100,
    restart_backoff_seconds=0.01,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """An appliance whose models run in sandboxed workers."""
    folder = tmp_path_factory.mktemp("wire") / "domain"
    tasks = ("generate", "embed")
    async with started(folder, tasks=tasks, policy=POLICY, hosts=worker_hosts(CONFIG)) as running:
        await install_tensor(running, folder)
        yield running


async def install_tensor(running: Running, folder: Path) -> None:
    """Install the tensor graph with a probe that it can answer."""
    probe = {
        "request": {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.0] * 4}]
        },
        "expect": {
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [0.0] * 3}]
        },
        "tolerance": {"absolute": 1e6, "relative": 0.0},
    }
    before = support.PROBES["tensor"]
    support.PROBES["tensor"] = probe
    try:
        await support.install(running.appliance, folder, "tensor")
    finally:
        support.PROBES["tensor"] = before


def texts(real: Running, *who: str) -> text_pb2_grpc.TextServiceStub:
    return text_pb2_grpc.TextServiceStub(real.channel(*who))


def tensors(real: Running) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    return inference_pb2_grpc.GRPCInferenceServiceStub(real.channel())


async def usage_of(stub: text_pb2_grpc.TextServiceStub, prompt: str) -> text_pb2.Usage:
    request = text_pb2.GenerateRequest(model="tiny-generate", prompt=prompt, max_tokens=4)
    messages = [message async for message in stub.Generate(request)]
    usage: text_pb2.Usage = messages[-1].completion.usage
    return usage


def host_of(real: Running, model: str) -> ModelHost:
    host = real.appliance.catalog.resolve(model).host
    assert isinstance(host, ModelHost)
    return host


async def test_a_prefix_is_reused_by_its_principal_and_by_nobody_else(real: Running) -> None:
    prompt = "the other on the thing " * 4
    alice, bob = texts(real, "alice"), texts(real, "bob")
    first = await usage_of(alice, prompt)
    assert first.cached_tokens == 0
    # The control: it is there, and its owner gets it, on another connection too.
    assert (await usage_of(alice, prompt)).cached_tokens > first.prompt_tokens // 2
    assert (await usage_of(texts(real, "alice"), prompt)).cached_tokens > 0
    assert (await usage_of(bob, prompt)).cached_tokens == 0
    # Of the same name, in another role: another principal.
    assert (await usage_of(texts(real, "alice-2", "operator"), prompt)).cached_tokens == 0
    # What bob left behind is bob's, and did not push out what is alice's.
    assert (await usage_of(bob, prompt)).cached_tokens > 0
    assert (await usage_of(alice, prompt)).cached_tokens > 0


async def test_a_killed_worker_fails_its_own_requests_only_and_says_when_to_come_back(
    real: Running,
) -> None:
    host = host_of(real, "tiny-generate")
    stub, others = texts(real), texts(real, "camera-2")
    sampling = text_pb2.Sampling(temperature=1.0, seed=1)
    request = text_pb2.GenerateRequest(
        model="tiny-generate", prompt="the", max_tokens=64, sampling=sampling
    )
    # Stopped before the call: the answer cannot be complete before the worker dies.
    pid = host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    call = stub.Generate(request)
    await until(lambda: host.in_flight == 1)
    os.kill(pid, signal.SIGKILL)
    seen = await refused(call)
    assert (seen.code, seen.reason) == (Code.UNAVAILABLE, "WORKER_GONE")
    assert (seen.retry_seconds or 0) > 0
    embed = text_pb2.EmbedRequest(model="tiny-embed", inputs=["the"])
    assert (await others.Embed(embed)).embeddings[0].values
    async with asyncio.timeout(PATIENCE_SECONDS):
        await host.until_ready()
    assert host.pid != pid
    assert [message async for message in stub.Generate(request)][-1].HasField("completion")


def infer(values: list[float], *, raw: bool = False, **changes: Any) -> Any:
    request = inference_pb2.ModelInferRequest(model_name="tiny-tensor")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[len(values) // 4, 4])
    if raw:
        request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    else:
        tensor.contents.fp32_contents.extend(values)
    for name, value in changes.items():
        match name:
            case "shape":
                tensor.shape[:] = value
            case "output":
                request.outputs.add(name=value)
            case "fp64":
                tensor.datatype = "FP64"
                tensor.contents.Clear()
                tensor.contents.fp64_contents.extend(value)
            case _:
                setattr(tensor, name, value)
    return request


BAD_TENSORS = {
    "NaN": (infer([0, math.nan, 0, 0]), "inputs[0]"),
    "NaN in raw contents": (infer([0, math.nan, 0, 0], raw=True), "inputs[0]"),
    "infinity": (infer([math.inf, 0, 0, 0]), "inputs[0]"),
    "wrong width": (infer([0.0] * 5, shape=[1, 5]), "inputs[0].shape"),
    "wrong rank": (infer([0.0] * 4, shape=[4]), "inputs[0].shape"),
    "no rows": (infer([], shape=[0, 4]), "inputs[0].shape"),
    "a huge shape with nothing behind it": (infer([0.0] * 4, shape=[1 << 40, 4]), "inputs[0]"),
    "wrong dtype": (infer([0.0] * 4, fp64=[0.0] * 4), "inputs[0].datatype"),
    "unknown input": (infer([0.0] * 4, name="z"), "inputs[0].name"),
    "unknown output": (infer([0.0] * 4, output="nothing"), "outputs[0].name"),
}


@pytest.mark.parametrize(("request_", "field"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
async def test_a_bad_tensor_is_refused_by_the_real_graph_and_named(
    real: Running, request_: Any, field: str
) -> None:
    pid = host_of(real, "tiny-tensor").pid
    refusal = await refused(tensors(real).ModelInfer(request_))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.field.startswith(field)
    good = await tensors(real).ModelInfer(infer([0.0] * 4))
    assert list(good.outputs[0].shape) == [1, 3]
    assert host_of(real, "tiny-tensor").pid == pid


async def test_the_engines_metrics_have_the_usual_names_and_real_values(real: Running) -> None:
    stub, prompt = texts(real, "meter"), "in the other on " * 4
    await usage_of(stub, prompt)
    reused = (await usage_of(stub, prompt)).cached_tokens
    assert reused > 0
    host = host_of(real, "tiny-generate")
    # The gauges are those of the last heartbeat.
    await until(lambda: (stats := host.stats()) is not None and stats.prefix_hits >= reused)
    url = f"http://{real.appliance.metrics_address}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, _, value in lines}

    def value(name: str) -> float:
        return values[f'casemate_{name}{{model_name="tiny-generate"}}']

    assert value("num_requests_running") >= 0
    assert value("num_requests_waiting") >= 0
    assert 0 < value("kv_cache_usage_perc") <= 1
    assert value("prefix_cache_queries_total") >= value("prefix_cache_hits_total") >= reused
    assert value("request_success_total") >= 2
    assert value("prompt_tokens_total") > 0
    assert value("generation_tokens_total") > 0
    for histogram in (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
    ):
        assert value(f"{histogram}_count") > 0


class Later(PeerVerifier):
    """A verifier whose present is as much later as it is told."""

    later = timedelta()

    def verify(self, certificate_pem: bytes, now: datetime | None = None) -> Any:
        return super().verify(certificate_pem, (now or utc_now()) + self.later)


async def test_an_open_stream_and_an_open_channel_end_within_a_second_of_expiry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PeerVerifier", Later)
    async with started(tmp_path / "domain", policy=POLICY) as front:
        host = front.hosts["tiny-generate"]
        short = texts(front, "short")
        ends = expiry_of(front, "short") - utc_now()
        host.paused = True
        request = text_pb2.GenerateRequest(model="tiny-generate", prompt="x")
        call = short.Generate(request)
        await until(lambda: front.appliance.pipeline.open)
        monkeypatch.setattr(Later, "later", ends + timedelta(seconds=1))
        async with asyncio.timeout(1.0):
            seen = await refused(call)
        assert (seen.code, seen.reason) == (Code.UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
        await until(lambda: len(host.cancelled) == 1)
        again = await refused(short.Generate(request))
        assert (again.code, again.reason) == (Code.UNAUTHENTICATED, "CERTIFICATE_EXPIRED")


def expiry_of(front: Running, name: str) -> datetime:
    from cryptography import x509

    return x509.load_pem_x509_certificate(leaf_pem(front.identity(name))).not_valid_after_utc


async def test_a_call_whose_deadline_has_passed_is_not_computed_and_is_on_record(
    tmp_path: Path,
) -> None:
    async with started(tmp_path / "domain", policy=POLICY) as front:
        host, log = front.hosts["tiny-generate"], front.appliance.log
        submitted, size = len(host.submitted), log.size

        async def send(_message: object) -> None:
            raise AssertionError("nothing may be sent")

        request = text_pb2.GenerateRequest(model="tiny-generate", prompt="x")
        peer = Peer(leaf_pem(front.identity("camera-1")), "TLSv1.3")
        spec = front.appliance.specs["casemate.v1.TextService/Generate"]
        # A client's own library gives up first, so the call is made as the server makes it.
        call = Call(spec, request, peer, 0.0, send)
        await front.appliance.pipeline.run(call)
        assert call.refusal is not None
        assert (call.code, call.refusal.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        assert len(host.submitted) == submitted
        await until(lambda: log.size == size + 1)


async def text_of(stub: text_pb2_grpc.TextServiceStub, **fields: Any) -> tuple[str, list[Any], int]:
    request = text_pb2.GenerateRequest(model="tiny-generate", prompt="the", max_tokens=24, **fields)
    messages = [message async for message in stub.Generate(request)]
    tokens = [token for message in messages for token in message.delta.logprobs]
    text = "".join(message.delta.text for message in messages)
    return text, tokens, messages[-1].completion.finish_reason


async def test_seed_stop_and_log_probabilities_hold_up_to_the_client(real: Running) -> None:
    stub = texts(real)
    seeded = [text_pb2.Sampling(temperature=1.0, seed=seed) for seed in (1, 1, 2, 3)]
    answers = [await text_of(stub, sampling=sampling) for sampling in seeded]
    assert answers[0][0] == answers[1][0]
    assert len({text for text, _, _ in answers}) == 3
    # Off unless asked for.
    assert [tokens for _, tokens, _ in answers] == [[], [], [], []]
    whole = answers[0][0]
    stop = [character for character in whole if character.isascii() and character.isalnum()][-1]
    cut, _, reason = await text_of(stub, sampling=seeded[0], stop=[stop])
    assert cut == whole[: whole.index(stop)]
    assert reason == text_pb2.FINISH_REASON_STOP
    # The greedy answer begins with letters; what follows a byte that is no text is held back.
    text, tokens, _ = await text_of(stub, logprobs=True, top_logprobs=5)
    assert tokens
    assert text.encode().startswith(b"".join(token.token for token in tokens))
    # An alternative could spell what a rule blocks, so where one applies there are none.
    assert all(not token.alternatives for token in tokens)


async def test_five_alternatives_where_no_rule_applies(tmp_path: Path) -> None:
    policy = POLICY.partition("[[rules]]")[0]
    async with started(tmp_path / "domain", policy=policy, hosts=worker_hosts(CONFIG)) as running:
        _, tokens, _ = await text_of(texts(running), logprobs=True, top_logprobs=5)
    assert tokens
    for token in tokens:
        values = [other.logprob for other in token.alternatives]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert max(values) < 0
        assert (token.token, token.logprob) == (token.alternatives[0].token, values[0])
