"""The client against a real appliance: TLS, stages, audit log and receipts are real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from casemate import AsyncClient, Client
from casemate.cli.templates import client_text
from casemate.client import ClientConfig, Message, RetryPolicy, Tensor
from casemate.client.errors import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ReceiptError,
    Refused,
    ServerFault,
)
from casemate.client.receipts import HELD_NAME
from casemate.client.types import Conversation
from runtime.errors import WorkerGone
from security.audit.receipt import verify_receipt
from security.errors import UsageError
from tests.models.memory_host import until
from tests.support.appliance import Running, started
from tests.support.trust_domains import TRUST_DOMAIN, make_domain

T = TypeVar("T")
TASKS = ("generate", "embed", "classify", "tensor")


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Running]:
    async with started(tmp_path / "domain", tasks=TASKS) as running:
        yield running


def identity(site: Running, name: str = "camera-1") -> Path:
    """Return an identity folder with the files that the command line adds."""
    folder = site.identity(name, "operator" if name == "operator" else "device")
    complete(folder, site.vkeys())
    return folder


def complete(folder: Path, vkeys: str) -> None:
    (folder / "client.toml").write_text(client_text("127.0.0.1:1", "localhost", TRUST_DOMAIN))
    (folder / "log.vkeys").write_text(vkeys)


def open_client(site: Running, name: str = "camera-1", **changes: Any) -> Client:
    return Client.from_identity(identity(site, name), target=site.target, **changes)


async def in_thread(function: Callable[[], T]) -> T:
    """Run the synchronous client beside the appliance's loop."""
    return await asyncio.to_thread(function)


async def test_a_stream_its_completion_and_its_receipt(site: Running, tmp_path: Path) -> None:
    folder = tmp_path / "receipts"

    def use() -> tuple[list[str], object]:
        with open_client(site, receipts=folder) as client:
            stream = client.generate("tiny-generate", "The lighthouse", max_tokens=16)
            return [piece.text for piece in stream], stream.completion

    pieces, done = await in_thread(use)
    assert len(pieces) > 1
    assert "".join(pieces) == done.text == "The lighthouse"  # type: ignore[attr-defined]
    assert done.finish_reason == "end"  # type: ignore[attr-defined]
    request_id = done.answered.request_id  # type: ignore[attr-defined]
    saved = (folder / f"{request_id}.json").read_bytes()
    verified = verify_receipt(saved, site.vkeys())
    assert verified.entry.request_id == request_id
    assert b"lighthouse" not in saved


async def test_every_call_with_its_receipt_checked(site: Running) -> None:
    kept: dict[str, bytes] = {}

    def use() -> None:
        with open_client(site, receipts=kept.__setitem__) as client:
            said: Conversation = [
                Message("user", "a"),
                {"role": "assistant", "content": "b"},
                ("user", "c"),
            ]
            assert client.chat("tiny-generate", said).collect().text == "abc"
            scores = client.score("tiny-generate", ["one", "two"])
            assert [score.logprob for score in scores.scores] == [-1.0, -1.0]
            vectors = client.embed("tiny-embed", ["a", "bcd"]).vectors
            assert [vector[0] for vector in vectors] == [1.0, 3.0]
            found = client.classify("tiny-classify", ["x"]).labels
            assert found[0][0].score == 0.25
            tensor = Tensor("x", "FP32", (4,), (1.0, 2.0, 3.0, 4.0))
            answer = client.infer("tiny-tensor", [tensor])
            assert answer.output("x").data == tensor.data
            assert len(answer.answered.bundle_digest) == 64
            assert answer.answered.request_id in kept

    await in_thread(use)
    assert len(kept) == 5
    for request_id, receipt in kept.items():
        assert verify_receipt(receipt, site.vkeys()).entry.request_id == request_id


async def test_the_asyncio_client_is_the_same(site: Running) -> None:
    folder = identity(site)
    async with AsyncClient.from_identity(folder, target=site.target) as client:
        stream = client.generate("tiny-generate", "hello")
        assert "".join([piece.text async for piece in stream]) == "hello"
        assert stream.completion.answered.receipt is not None
        assert (await client.score("tiny-generate", ["x"])).scores[0].logprob == -1.0
        assert (await client.audit.check()).size > 0
        with pytest.raises(NotFound):
            await client.embed("nobody", ["x"])


async def test_models_and_their_signed_manifest(site: Running) -> None:
    def use() -> None:
        with open_client(site, "operator") as client:
            models = {model.name: model for model in client.models()}
            assert set(models) == {f"tiny-{task}" for task in TASKS}
            live = models["tiny-embed"].live
            assert live is not None
            assert live.ready
            details = client.describe("tiny-embed")
            assert json.loads(details.manifest_json)["task"] == "embed"

    await in_thread(use)


async def test_the_log_is_held_and_checked(site: Running) -> None:
    def use() -> None:
        with open_client(site) as client:
            client.generate("tiny-generate", "one").collect()
            first = client.audit.check()
            client.generate("tiny-generate", "two").collect()
            second = client.audit.check()
            assert second.held_size >= first.size
            assert second.size > first.size
        assert (identity(site) / HELD_NAME).is_file()
        with open_client(site) as client:  # another run goes on from there
            assert client.audit.check().held_size >= second.size

    await in_thread(use)


async def test_a_receipt_for_another_answer_is_refused(
    site: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casemate.client.generation import Gathered

    monkeypatch.setattr(Gathered, "answer_parts", lambda self: (b"something else",))

    def use() -> None:
        with open_client(site) as client, pytest.raises(ReceiptError, match="answer as it arrived"):
            client.generate("tiny-generate", "hello").collect()

    await in_thread(use)


@pytest.mark.parametrize(
    ("error", "options", "field"),
    [
        (InvalidRequest, {"temperature": 9.0}, "temperature"),
        (InvalidRequest, {"stop": ["x"] * 9}, "stop"),
        (InvalidRequest, {"top_logprobs": 9, "logprobs": True}, "top_logprobs"),
    ],
)
async def test_a_wrong_field_is_named(
    site: Running, error: type[Exception], options: dict[str, object], field: str
) -> None:
    def use() -> None:
        with open_client(site) as client, pytest.raises(error) as raised:
            client.generate("tiny-generate", "secret words", **options).collect()  # type: ignore[arg-type]
        assert field in raised.value.field  # type: ignore[attr-defined]
        assert "secret words" not in str(raised.value)

    await in_thread(use)


async def test_an_unknown_model_is_not_found(site: Running) -> None:
    def use() -> None:
        with open_client(site) as client, pytest.raises(NotFound) as raised:
            client.generate("nobody", "x").collect()
        assert raised.value.reason == "UNKNOWN_MODEL"
        assert raised.value.request_id

    await in_thread(use)


async def test_a_device_may_not_promote(site: Running) -> None:
    def use() -> None:
        with open_client(site) as client, pytest.raises(Refused) as raised:
            client.promote("tiny-embed", "1.0.0")
        assert raised.value.code == "PERMISSION_DENIED"

    await in_thread(use)


async def test_an_operator_may(site: Running) -> None:
    def use() -> None:
        with open_client(site, "operator") as client:
            assert client.promote("tiny-embed", "1.0.0").version.state == "live"
            with pytest.raises(Refused, match="no previous version"):
                client.rollback("tiny-embed")

    await in_thread(use)


async def test_cancelling_reaches_the_worker(site: Running) -> None:
    host = site.hosts["tiny-generate"]
    host.paused = True
    host.submitted.clear()  # the probes of the installation
    async with AsyncClient.from_identity(identity(site), target=site.target) as client:
        stream = client.generate("tiny-generate", "hello")
        reading = asyncio.create_task(stream.collect())
        await until(lambda: bool(host.submitted))
        stream.cancel()
        with pytest.raises((Cancelled, asyncio.CancelledError)):
            await reading
        await until(lambda: bool(host.cancelled))


async def test_a_deadline_ends_the_call(site: Running) -> None:
    site.hosts["tiny-generate"].paused = True

    def use() -> None:
        with open_client(site) as client, pytest.raises(DeadlineExceeded) as raised:
            client.generate("tiny-generate", "x", timeout_seconds=0.3).collect()
        assert "time limit passed" in str(raised.value)
        assert "Stream" not in str(raised.value)

    await in_thread(use)


async def test_a_dead_worker_is_not_sent_the_same_generation_again(site: Running) -> None:
    host = site.hosts["tiny-generate"]
    host.fail_with = WorkerGone(50)
    tries: list[float] = []

    def use() -> None:
        config = ClientConfig(retry=RetryPolicy(attempts=3, initial_delay_seconds=0.01))
        with open_client(site, config=config) as client:
            with pytest.raises(Exception, match="not available"):
                client.generate("tiny-generate", "x").collect()
            # Scoring changes nothing, so it is tried again, and then it works.
            tries.append(1)
            host.fail_with = None
            client.score("tiny-generate", ["x"])

    await in_thread(use)
    assert tries


async def test_nothing_listens(site: Running) -> None:
    def use() -> None:
        folder = identity(site)
        with (
            Client.from_identity(folder, target="127.0.0.1:1") as client,
            pytest.raises(ConnectionFailed, match=r"nothing listens on 127\.0\.0\.1:1"),
        ):
            client.models()

    await in_thread(use)


async def test_another_domains_identity_is_told_about_certificates(
    site: Running, tmp_path: Path
) -> None:
    other = make_domain(tmp_path / "other")
    other.issue("stranger", "device")
    folder = other.layout.identity("stranger")
    complete(folder, site.vkeys())

    def use() -> None:
        with (
            Client.from_identity(folder, target=site.target) as client,
            pytest.raises(ConnectionFailed, match=r"roots\.pem does not vouch"),
        ):
            client.models()
        # With the right roots the appliance still refuses the certificate.
        (folder / "roots.pem").write_bytes((identity(site) / "roots.pem").read_bytes())
        with (
            Client.from_identity(folder, target=site.target) as client,
            pytest.raises((ConnectionFailed, Refused), match="certificate"),
        ):
            client.models()

    await in_thread(use)


async def test_a_lone_text_is_not_a_list(site: Running) -> None:
    with open_client(site) as client, pytest.raises(UsageError, match="list of texts"):
        client.embed("tiny-embed", "one text")


async def test_a_closed_client_says_so(site: Running) -> None:
    client = open_client(site)
    client.close()
    for use in (client.models, lambda: client.generate("tiny-generate", "x").collect()):
        with pytest.raises(UsageError, match="closed"):
            use()
    other = AsyncClient.from_identity(identity(site), target=site.target)
    await other.close()
    with pytest.raises(UsageError, match="closed"):
        await other.models()
    with pytest.raises(UsageError, match="closed"):
        await other.generate("tiny-generate", "x").collect()


async def test_the_completion_is_not_there_before_the_end(site: Running) -> None:
    with open_client(site) as client, pytest.raises(UsageError, match="has not ended"):
        _ = client.generate("tiny-generate", "x").completion


async def test_server_faults_are_a_kind_of_their_own(site: Running) -> None:
    site.hosts["tiny-generate"].fail_with = RuntimeError("secret detail")

    def use() -> None:
        with open_client(site) as client, pytest.raises(ServerFault) as raised:
            client.generate("tiny-generate", "x").collect()
        assert "secret detail" not in str(raised.value)

    await in_thread(use)
