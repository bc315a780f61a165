"""What a call that is cut short costs, and what of it goes on record."""

from __future__ import annotations

import grpc
import pytest

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from runtime.errors import FailureReason, WorkFailed
from runtime.front.call import Call, Peer
from runtime.front.stages.filter_out import FilterOut
from security.audit.commitment import ANSWER_DOMAIN, Committer
from security.audit.entry import AuditEntry, parse_entry
from tests.support.appliance import Running, refused, until

Code = grpc.StatusCode
pytestmark = pytest.mark.asyncio(loop_scope="module")


def stub(front: Running, *who: str) -> text_pb2_grpc.TextServiceStub:
    return text_pb2_grpc.TextServiceStub(front.channel(*who))


def generate(**fields) -> text_pb2.GenerateRequest:
    return text_pb2.GenerateRequest(model="tiny-generate", **fields)


def last_entry(front: Running) -> AuditEntry:
    log = front.appliance.log
    data = log.entries((log.size - 1) // 256, (log.size - 1) % 256 + 1)
    entry = b""
    while data:
        length = int.from_bytes(data[:2], "big")
        entry, data = data[2 : 2 + length], data[2 + length :]
    return parse_entry(entry)


def level(front: Running, name: str) -> float:
    """The tokens that a principal has left."""
    limiter = front.appliance.parts.limiter
    (account,) = [a for who, a in limiter._accounts.items() if who.endswith(f"/{name}")]
    return account.tokens.level


async def cut_short(front: Running, *who: str) -> None:
    """Read one message of a long answer, and no more until the deadline."""
    host = front.hosts["tiny-generate"]
    host.says, host.piece = "x" * 3_000_000, 30_000
    try:
        call = stub(front, *who).Generate(generate(prompt="x", max_tokens=50), timeout=0.5)
        assert (await call.read()).delta.text
        await until(lambda: not front.appliance.pipeline.open)
    finally:
        host.says, host.piece = None, 3
    assert await call.code() is Code.DEADLINE_EXCEEDED


async def test_a_stream_cut_by_a_slow_reader_costs_its_reservation(front: Running):
    await cut_short(front, "slow-reader", "thrifty")
    assert level(front, "slow-reader") == pytest.approx(60 - 51, abs=3)
    again = stub(front, "slow-reader", "thrifty").Generate(generate(prompt="x", max_tokens=50))
    assert (await refused(again)).reason == "TOKEN_RATE"


async def test_a_cut_stream_is_recorded_with_what_is_known(front: Running):
    size = front.appliance.log.size
    await cut_short(front, "cut-off")
    await until(lambda: front.appliance.log.size >= size + 2)
    entry = last_entry(front)
    # The client may be the first to notice its deadline.
    assert entry.kind == "completed"
    assert entry.status in {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert entry.completion_tokens > 0


async def test_work_that_the_worker_refuses_costs_no_more_than_its_prompt(front: Running):
    host = front.hosts["tiny-generate"]
    host.fail_with = WorkFailed(FailureReason.CAPACITY)
    try:
        call = stub(front, "turned-away", "thrifty").Generate(generate(prompt="x", max_tokens=50))
        assert (await refused(call)).reason == "MODEL_BUSY"
    finally:
        host.fail_with = None
    assert level(front, "turned-away") >= 58


async def test_only_what_the_transport_took_is_committed_to(front: Running):
    sent: list[str] = []

    async def send(message: text_pb2.GenerateResponse) -> None:
        if len(sent) == 2:
            raise ConnectionResetError
        sent.append(message.delta.text)

    async def answer():
        for text in ("one ", "two ", "three "):
            yield text_pb2.GenerateResponse(delta=text_pb2.Delta(text=text))

    spec = front.appliance.specs["casemate.v1.TextService/Generate"]
    call = Call(spec, generate(prompt="x"), Peer(b"", ""), None, send)
    call.commitment_key, call.answer = b"k" * 32, answer()
    with pytest.raises(ConnectionResetError):
        await FilterOut(front.appliance.parts)(call)
    committer = Committer(b"k" * 32, ANSWER_DOMAIN)
    committer.add(b"one two ")
    assert call.answer_commitment == committer.digest().hex()


@pytest.mark.parametrize(
    ("model", "recorded"),
    [
        ("tiny-made-up", "tiny-made-up"),
        ("tiny-my secret prompt", "(invalid)"),
        ("tiny-\u202egnp", "(invalid)"),
        ("tiny-" + "x" * 60, "(invalid)"),
    ],
)
async def test_only_what_can_be_a_name_goes_on_record(front: Running, model, recorded):
    request = text_pb2.GenerateRequest(model=model, version=model, prompt="x")
    await refused(stub(front, "speller").Generate(request))
    entry = last_entry(front)
    assert (entry.kind, entry.model, entry.version) == ("denied", recorded, recorded)
