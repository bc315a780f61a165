"""A real appliance in the test's event loop: real certificates, TLS, log, store and bundles.

Only the model is replaced, by `EchoHost`: it answers at once and predictably (the
prompt comes back in pieces), so that tests of the front need no inference. Tests
that need real workers leave `hosts` out, or start `casemate serve` as a process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from casemate.cli.templates import POLICY, config_text
from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2
from runtime.appliance import Appliance, running
from runtime.config import Address, ApplianceConfig, load_config
from runtime.errors import FailureReason, WorkFailed
from runtime.models.host import HostFactory
from security.bundle.opening import VerifiedBundle
from security.identity.domain import TrustDomain
from security.signing.signers import SigningKeys
from tests.support.bundles import DIM, LABELS, tiny_bundle
from tests.support.trust_domains import TRUST_DOMAIN, make_domain

PROBES: dict[str, dict[str, Any]] = {
    "generate": {
        "request": {"prompt": "hello"},
        "expect": {"text": "hello"},
        "tolerance": {"prefix_chars": 0},
    },
    "embed": {
        "request": {"inputs": ["hello"]},
        "expect": {"embeddings": [[1.0] * DIM]},
        "tolerance": {"cosine": -1.0},
    },
    "classify": {
        "request": {"inputs": ["hello"]},
        "expect": {"labels": [LABELS[0]], "scores": [0.5]},
        "tolerance": {"score": 1.0},
    },
    "tensor": {
        "request": {"inputs": []},
        "expect": {"outputs": []},
        "tolerance": {"absolute": 0.0, "relative": 0.0},
    },
}


class EchoStream:
    """Gives its messages one by one; a held one waits until it is cancelled."""

    def __init__(self, host: EchoHost, work: worker_pb2.Submit) -> None:
        self.host = host
        self.work = work
        self.cancelled = False
        self.finished = False
        self._messages = iter(host.answer(work))

    def cancel(self) -> None:
        if not self.finished and not self.cancelled:
            self.cancelled = True
            self.host.cancelled.append(self.work)
            self.host.changed.set()

    def __aiter__(self) -> AsyncIterator[worker_pb2.FromWorker]:
        return self._run()

    async def _run(self) -> AsyncIterator[worker_pb2.FromWorker]:
        for message in self._messages:
            while self.host.paused and not self.cancelled:
                self.host.changed.clear()
                await self.host.changed.wait()
            if self.cancelled:
                raise WorkFailed(FailureReason.CANCELLED)
            self.finished = message.HasField("completed")
            yield message


@dataclass
class EchoHost:
    """A host whose model repeats the prompt, `piece` characters a delta."""

    piece: int = 3
    ready: bool = True
    paused: bool = False
    fail_with: Exception | None = None
    submitted: list[worker_pb2.Submit] = field(default_factory=list)
    cancelled: list[worker_pb2.Submit] = field(default_factory=list)
    # Given instead of the prompt, when set.
    says: str | None = None

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()

    @property
    def ready_message(self) -> worker_pb2.Ready:
        spec = worker_pb2.TensorSpec(name="x", datatype="FP32", shape=[-1])
        return worker_pb2.Ready(inputs=[spec], outputs=[spec])

    def resume(self) -> None:
        self.paused = False
        self.changed.set()

    def submit(self, work: worker_pb2.Submit) -> EchoStream:
        if self.fail_with is not None:
            raise self.fail_with
        self.submitted.append(work)
        return EchoStream(self, work)

    async def drain(self, timeout_seconds: float) -> None:
        self.ready = False

    async def close(self) -> None:
        self.ready = False

    def answer(self, work: worker_pb2.Submit) -> Sequence[worker_pb2.FromWorker]:
        done = worker_pb2.Completed(id=work.id, queue_ms=1)
        messages = []
        match work.WhichOneof("work"):
            case "generate":
                text = self.says if self.says is not None else _prompt(work.generate)
                pieces = [text[i : i + self.piece] for i in range(0, len(text), self.piece)]
                for piece in pieces:
                    delta = text_pb2.Delta(text=piece)
                    if work.generate.logprobs:
                        delta.logprobs.add(token=piece.encode(), logprob=-0.5)
                    messages.append(
                        worker_pb2.FromWorker(delta=worker_pb2.GenerateDelta(id=1, delta=delta))
                    )
                done.usage.prompt_tokens, done.usage.completion_tokens = 3, len(pieces)
                done.generate.finish_reason = text_pb2.FINISH_REASON_END
            case "score":
                for text in work.score.texts:
                    tokens = [text_pb2.TokenLogprob(token=text.encode(), logprob=-1.0)]
                    done.score.scores.add(tokens=tokens, logprob=-1.0)
                done.usage.prompt_tokens = len(work.score.texts)
            case "embed":
                for text in work.embed.inputs:
                    done.embed.embeddings.add(values=[float(len(text))] * DIM, tokens=1)
                done.usage.prompt_tokens = len(work.embed.inputs)
            case "classify":
                for _ in work.classify.inputs:
                    labels = [text_pb2.LabelScore(label=label, score=0.25) for label in LABELS]
                    done.classify.classifications.add(labels=labels)
                done.usage.prompt_tokens = len(work.classify.inputs)
            case _:
                done.infer.SetInParent()
                for tensor, raw in zip(
                    work.infer.inputs, work.infer.raw_input_contents, strict=True
                ):
                    done.infer.outputs.add(
                        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
                    )
                    done.infer.raw_output_contents.append(raw)
        return [*messages, worker_pb2.FromWorker(completed=done)]


def _prompt(request: text_pb2.GenerateRequest) -> str:
    if request.WhichOneof("input") == "prompt":
        return request.prompt
    return "".join(message.content for message in request.chat.messages)


@dataclass
class Running:
    """A started appliance, its authority, and channels to it."""

    appliance: Appliance
    domain: TrustDomain
    hosts: dict[str, EchoHost]
    channels: list[aio.Channel] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.appliance.address.port}"

    def identity(self, name: str, role: str = "device", **changes: Any) -> Path:
        folder = self.domain.layout.identity(name)
        if not folder.exists():
            self.domain.issue(name, role, **changes)
        return folder

    def channel(self, name: str = "camera-1", role: str = "device", **changes: Any) -> aio.Channel:
        channel = aio.secure_channel(
            self.target, credentials(self.identity(name, role, **changes)), options=OPTIONS
        )
        self.channels.append(channel)
        return channel

    def vkeys(self) -> str:
        return self.domain.layout.log_vkeys.read_text()


OPTIONS = [
    ("grpc.ssl_target_name_override", "localhost"),
    # Channels of one process share connections otherwise, whatever their credentials.
    ("grpc.use_local_subchannel_pool", 1),
]


def credentials(identity: Path) -> grpc.ChannelCredentials:
    """Return what a client in `identity` connects with."""
    return grpc.ssl_channel_credentials(
        (identity / "roots.pem").read_bytes(),
        (identity / "client.key").read_bytes(),
        (identity / "client.crt").read_bytes(),
    )


def make_config(folder: Path, *, policy: str = POLICY, **limits: Any) -> ApplianceConfig:
    """Create a trust domain with its texts, and return its configuration on free ports."""
    if not folder.exists():
        make_domain(folder)
    (folder / "casemate.toml").write_text(config_text("casemate", TRUST_DOMAIN))
    (folder / "policy.toml").write_text(policy)
    config = load_config(folder / "casemate.toml")
    return replace(
        config,
        listen=Address("127.0.0.1", 0),
        metrics_listen=Address("127.0.0.1", 0),
        limits=replace(config.limits, **limits),
    )


async def install(appliance: Appliance, folder: Path, task: str, **changes: Any) -> None:
    """Install a tiny signed bundle for `task`, as an operator would."""
    layout = TrustDomain(folder).layout
    probe = json.dumps({"id": "p1", "kind": task, **PROBES[task]}).encode() + b"\n"
    source = folder / "bundles" / f"{task}-{changes.get('version', '1.0.0')}"
    keys = SigningKeys.load(layout.signing)
    bundle = tiny_bundle(source, task, probes=probe, keys=keys, **changes)
    appliance.store.incoming.mkdir(parents=True, exist_ok=True)
    bundle.path.rename(appliance.store.incoming / task)
    await appliance.catalog.install(task)


@asynccontextmanager
async def started(
    folder: Path,
    *,
    tasks: Sequence[str] = ("generate",),
    policy: str = POLICY,
    hosts: HostFactory | None = None,
    edit: Callable[[ApplianceConfig], ApplianceConfig] = lambda config: config,
    **limits: Any,
) -> AsyncIterator[Running]:
    """Start an appliance with tiny bundles for `tasks`, answered by `EchoHost`s."""
    config = edit(make_config(folder, policy=policy, **limits))
    echoes: dict[str, EchoHost] = {}

    async def echo(bundle: VerifiedBundle) -> EchoHost:
        return echoes.setdefault(bundle.manifest.name, EchoHost())

    async with running(config, hosts=hosts or echo) as appliance:
        for task in tasks:
            await install(appliance, folder, task)
        here = Running(appliance, TrustDomain(folder), echoes)
        try:
            yield here
        finally:
            for channel in here.channels:
                await channel.close(None)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for what another task, thread or process brings about; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing to wait on: the state is elsewhere
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Refused:
    """What a client sees of a refusal."""

    code: grpc.StatusCode
    reason: str
    field: str
    message: str
    retry_seconds: float | None


def refusal_of(error: aio.AioRpcError) -> Refused:
    """Read the details of an error as a client would."""
    reason, fields, retry = "", "", None
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key != "grpc-status-details-bin":
            continue
        for packed in status_pb2.Status.FromString(value).details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            again = error_details_pb2.RetryInfo()
            if packed.Unpack(info):
                reason = info.reason
            elif packed.Unpack(bad):
                fields = bad.field_violations[0].field
            elif packed.Unpack(again):
                retry = again.retry_delay.ToTimedelta().total_seconds()
    return Refused(error.code(), reason, fields, error.details() or "", retry)


async def refused(call: Any) -> Refused:
    """Await a call that must fail, and return how it did."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError("the call succeeded")


def text_tensor(
    model: str, *texts: bytes, name: str = "text_input"
) -> inference_pb2.ModelInferRequest:
    """Return an Open Inference request with typed contents."""
    request = inference_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(texts)
    return request
