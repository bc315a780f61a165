"""Nothing of a prompt or an answer is left anywhere: logs, audit, metrics, store, core dumps.

`casemate serve` as a process with real, sandboxed workers, core dumps allowed by whoever
starts it. Every call carries a canary, those that are refused too; then a worker and the
front are killed so that they would dump core, and every byte that was written is searched.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import string
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc import aio

from casemate.cli.templates import config_text
from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from casemate.pb.inference import inference_pb2_grpc
from runtime.probes.record import record
from runtime.store import Store
from runtime.worker.settings import WorkerConfig
from security.identity.domain import TrustDomain
from security.signing.signers import SigningKeys
from tests.front.conftest import POLICY
from tests.support.appliance import (
    OPTIONS,
    credentials,
    refusal_of,
    refused,
    text_tensor,
    until,
)
from tests.support.bundles import tiny_bundle
from tests.support.trust_domains import TRUST_DOMAIN, make_domain

Code = grpc.StatusCode
ROOT = Path(__file__).resolve().parents[2]
TASKS = ("generate", "embed", "classify", "tensor")
# Characters that no encoding escapes, and that no digest or key holds by chance.
CANARY = "qzcanaryq"
PATIENCE_SECONDS = 60.0
MIN_ANSWER_CHARS = 12


def forms(text: str) -> Iterator[bytes]:
    """Every form in which a careless writer could have kept `text`."""
    plain = text.encode()
    yield plain
    yield text.upper().encode()
    yield text.encode("utf-16-le")
    yield text.encode("utf-32-le")
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    yield json.dumps(text)[1:-1].encode()
    yield repr(text)[1:-1].encode()
    for shift in range(3):
        # The characters of base64 that depend on `text` alone, wherever it began.
        whole = base64.b64encode(b"\0" * shift + plain)
        yield whole[-(-shift * 4 // 3) : len(whole) - 4]


def found(data: bytes, texts: list[str]) -> list[str]:
    return [text for text in texts if any(form in data for form in forms(text))]


@dataclass
class Site:
    """A running `casemate serve`, and everything it can have written to."""

    folder: Path
    process: asyncio.subprocess.Process
    port: int
    metrics_url: str
    channels: list[aio.Channel] = field(default_factory=list)

    def channel(self, name: str, role: str = "device") -> aio.Channel:
        domain = TrustDomain(self.folder / "domain")
        identity = domain.layout.identity(name)
        if not identity.exists():
            domain.issue(name, role)
        channel = aio.secure_channel(
            f"127.0.0.1:{self.port}", credentials(identity), options=OPTIONS
        )
        self.channels.append(channel)
        return channel

    def texts(self, name: str, role: str = "device") -> text_pb2_grpc.TextServiceStub:
        return text_pb2_grpc.TextServiceStub(self.channel(name, role))

    async def metrics(self) -> bytes:
        read = lambda: urllib.request.urlopen(self.metrics_url, timeout=10).read()  # noqa: E731
        return bytes(await asyncio.to_thread(read))

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def written(self) -> dict[Path, bytes]:
        """Every file below the site, the captured streams and any core dump included."""
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Golden requests of the tiny models, recorded once."""
    root, recorded = tmp_path_factory.mktemp("samples"), {}
    for task in TASKS:
        sample = tiny_bundle(root / task, task).path
        record(sample, WorkerConfig(threads=1))
        recorded[task] = (sample / "probes.jsonl").read_bytes()
    return recorded


def prepare(folder: Path, probes: dict[str, bytes]) -> Path:
    """Lay out a trust domain with a tiny model of each task waiting in the store."""
    domain = make_domain(folder)
    text = config_text("edge", TRUST_DOMAIN, "127.0.0.1:0").replace(":9464", ":0")
    text = text.replace("max_prompt_bytes = 262144", "max_prompt_bytes = 4000")
    (folder / "casemate.toml").write_text(text.replace("threads = 0 ", "threads = 1 "))
    (folder / "policy.toml").write_text(POLICY)
    keys = SigningKeys.load(domain.layout.signing)
    with Store.open(folder / "store") as store:
        for task in TASKS:
            source = folder.parent / "sources" / task
            bundle = tiny_bundle(source, task, probes=probes[task], keys=keys)
            with bundle.open() as opened:
                store.stage(opened, awaiting_start=True)
    return folder / "casemate.toml"


@asynccontextmanager
async def serving(folder: Path, probes: dict[str, bytes]) -> AsyncIterator[Site]:
    """Run `casemate serve` with its streams in files and core dumps allowed."""
    config = await asyncio.to_thread(prepare, folder / "domain", probes)
    here, ready = folder / "cwd", folder / "ready"
    here.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRPC_")}
    environment["PYTHONPATH"] = str(ROOT)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(
                "/bin/sh",
                "-c",
                'ulimit -c unlimited || ulimit -c "$(ulimit -H -c)"; exec "$@"',
                "-",
            ),
            *(sys.executable, "-m", "casemate.cli.main", "serve", "--json-logs"),
            *("--config", str(config), "--ready-file", str(ready)),
            stdout=out,
            stderr=err,
            cwd=here,
            env=environment,
        )
    try:
        await until(lambda: ready.exists() or process.returncode is not None, PATIENCE_SECONDS)
        assert process.returncode is None, (folder / "stderr").read_text()
        said = (folder / "stdout").read_text()
        (url,) = [line.split()[-1] for line in said.splitlines() if line.startswith("metrics on")]
        site = Site(folder, process, int(ready.read_text().strip().rpartition(":")[2]), url)
        try:
            yield site
        finally:
            for channel in site.channels:
                await channel.close(None)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def generate(prompt: str, **changes: Any) -> text_pb2.GenerateRequest:
    return text_pb2.GenerateRequest(model="tiny-generate", prompt=prompt, **changes)


class Canaries:
    """Canary texts, each used once, so that a finding says which call it came from."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def __call__(self, where: str) -> str:
        self.used.append(f"{CANARY}-{where}-{len(self.used)}")
        return self.used[-1]


async def answered(site: Site, canary: Canaries) -> list[str]:
    """Make calls that succeed; return the texts of their answers."""
    texts, answers = site.texts("camera-1"), []
    sampling = text_pb2.Sampling(temperature=1.5, seed=3)
    for request in (
        generate(canary("prompt"), stop=[canary("stop")], sampling=sampling, logprobs=True),
        generate("my card 4111 1111 1111 1111 " + canary("redacted"), sampling=sampling),
        generate("nice weather " + canary("flagged"), sampling=sampling),
        text_pb2.GenerateRequest(
            model="tiny-generate",
            chat=text_pb2.Chat(
                messages=[text_pb2.ChatMessage(role="user", content=canary("chat"))]
            ),
        ),
    ):
        messages = [m async for m in texts.Generate(request)]
        answers.append("".join(m.delta.text for m in messages))
    score = text_pb2.ScoreRequest(model="tiny-generate", texts=[canary("score")])
    assert (await texts.Score(score)).scores[0].tokens
    await texts.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=[canary("embed")]))
    classify = text_pb2.ClassifyRequest(model="tiny-classify", inputs=[canary("classify")])
    await texts.Classify(classify)
    oip = inference_pb2_grpc.GRPCInferenceServiceStub(site.channel("camera-2"))
    answer = await oip.ModelInfer(text_tensor("tiny-generate", canary("tensor").encode()))
    answers.append(answer.raw_output_contents[0][4:].decode())
    return answers


async def denied(site: Site, canary: Canaries) -> set[str]:
    """Make calls that are refused, each for another reason; return the reasons."""
    texts = site.texts("camera-1")
    channel: Any = site.channel("camera-1")
    raw = channel.unary_stream("/casemate.v1.TextService/Generate")
    oip = inference_pb2_grpc.GRPCInferenceServiceStub(site.channel("camera-1"))
    # A generation whose "prompt" field holds the canary and a byte that is not UTF-8.
    broken = canary("not-utf8").encode() + b"\xff"
    not_utf8 = b"\x0a\x0dtiny-generate\x1a" + bytes([len(broken)]) + broken
    stranger = text_tensor("tiny-embed", canary("oip-not-utf8").encode() + b"\xff")
    wrong_graph = text_tensor("tiny-tensor", canary("oip-wrong-input").encode())
    role = text_pb2.ChatMessage(role=canary("chat-role"), content=canary("chat-content"))
    over_long = [canary("beyond-encoder") + " word" * 300]
    calls = [
        texts.Generate(generate(canary("range"), sampling=text_pb2.Sampling(temperature=9))),
        texts.Generate(generate(canary("nul") + "\0")),
        texts.Generate(generate(canary("context") + " word" * 300)),
        texts.Generate(generate(canary("too-long") * 400)),
        texts.Generate(generate("x", stop=[canary("stop-bad"), ""])),
        texts.Generate(generate(canary("max-tokens"), max_tokens=10_000)),
        texts.Generate(
            text_pb2.GenerateRequest(model="tiny-generate", chat=text_pb2.Chat(messages=[role]))
        ),
        texts.Generate(generate("a forbidden question " + canary("blocked"))),
        texts.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=[canary("nul-embed") + "\0"])),
        texts.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=over_long)),
        texts.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=[canary("large") * 500_000])),
        texts.Classify(
            text_pb2.ClassifyRequest(model="tiny-generate", inputs=[canary("wrong-task")])
        ),
        raw(not_utf8),
        oip.ModelInfer(stranger),
        oip.ModelInfer(wrong_graph),
        site.texts("ghost", "nobody").Generate(generate(canary("no-role"))),
        site.texts("thin", "narrow").Score(
            text_pb2.ScoreRequest(model="tiny-generate", texts=[canary("no-method")])
        ),
        texts.Generate(generate(canary("deadline"), max_tokens=64), timeout=1e-3),
    ]
    reasons = set()
    for call in calls:
        refusal = await refused(call)
        assert CANARY not in f"{refusal.message} {refusal.field} {refusal.reason}".lower()
        reasons.add(refusal.reason)
    # Revoked with its channel open.
    thief = site.texts("thief")
    assert [m async for m in thief.Generate(generate(canary("not-yet-revoked"), max_tokens=2))]
    TrustDomain(site.folder / "domain").revoke("thief")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                async for _ in thief.Generate(generate(canary("revoked"), max_tokens=2)):
                    pass
            except aio.AioRpcError as error:
                reasons.add(refusal_of(error).reason)
                break
    return reasons


async def killed(site: Site, canary: Canaries) -> None:
    """Kill the generating worker as a crash would, in the middle of an answer."""
    texts = site.texts("camera-1")
    endless = text_pb2.Sampling(temperature=1.0, seed=1)
    call: Any = texts.Generate(generate(canary("crashed"), sampling=endless, max_tokens=64))
    assert await call.read()
    for worker in site.workers():
        worker.send_signal(signal.SIGSEGV)
    # The answer may have been complete already; what counts is what the dead leave behind.
    with contextlib.suppress(aio.AioRpcError):
        while await call.read():
            pass
    assert await call.code() in (Code.OK, Code.UNAVAILABLE)


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    canary = Canaries()
    text = canary("control")
    for number, shift in itertools.product(range(8), range(3)):
        form = list(forms(text))[number]
        assert found(b"\x01" * shift + form + b"tail", [text]) == [text]
    for shift in range(6):
        assert found(base64.b64encode(b"x" * shift + text.encode() + b"y" * 5), [text]) == [text]
    assert found(b"nothing of the kind", [text]) == []
    assert not set(string.digits) & set(CANARY)


async def test_nothing_of_prompts_and_answers_is_left_anywhere(
    tmp_path: Path, probes: dict[str, bytes]
) -> None:
    canary = Canaries()
    async with serving(tmp_path, probes) as site:
        answers = [text for text in await answered(site, canary) if len(text) >= MIN_ANSWER_CHARS]
        reasons = await denied(site, canary)
        pages = [await site.metrics()]
        # Where the kernel pipes core dumps to a handler, no file would show.
        for process in (psutil.Process(site.process.pid), *site.workers()):
            assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        await killed(site, canary)
        pages.append(await site.metrics())
        # As a fault in a native library would end it: it must not dump its memory either.
        site.process.send_signal(signal.SIGSEGV)
        assert await site.process.wait() == -signal.SIGSEGV
        written = site.written()

    # The calls took the paths they were meant to, and left their traces.
    assert answers
    assert {
        "INVALID_FIELD",
        "BEYOND_CONTEXT",
        "EMPTY_TEXT",
        "MALFORMED",
        "BLOCKED_BY_POLICY",
        "METHOD_NOT_ALLOWED",
        "CERTIFICATE_REVOKED",
    } <= reasons, reasons
    log = written[tmp_path / "stderr"]
    for line in log.splitlines():
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()
    assert b"BLOCKED_BY_POLICY" in log
    assert b"CERTIFICATE_REVOKED" in log
    assert b"is gone" in log
    audit = [
        data for path, data in written.items() if tmp_path / "domain" / "audit" in path.parents
    ]
    assert any(b"card:redact" in data for data in audit)
    assert any(b"BLOCKED_BY_POLICY" in data or b"denied" in data for data in audit)
    assert b"casemate_denials_total" in pages[-1]

    cores = [path for path in written if path.name.startswith("core")]
    assert cores == []
    secrets = [*canary.used, *answers, CANARY]
    left = {str(path): found(data, secrets) for path, data in written.items()}
    left |= {f"metrics page {number}": found(page, secrets) for number, page in enumerate(pages)}
    assert {where: what for where, what in left.items() if what} == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_nor_after_an_orderly_or_a_sudden_end(
    tmp_path: Path, probes: dict[str, bytes], number: int
) -> None:
    canary = Canaries()
    async with serving(tmp_path, probes) as site:
        answers = [text for text in await answered(site, canary) if len(text) >= MIN_ANSWER_CHARS]
        site.process.send_signal(number)
        await site.process.wait()
        written = site.written()
    secrets = [*canary.used, *answers, CANARY]
    left = {str(path): found(data, secrets) for path, data in written.items()}
    assert {where: what for where, what in left.items() if what} == {}
