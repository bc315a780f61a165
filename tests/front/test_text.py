"""TextService over real mutual TLS: answers, refusals that name the field, filters, receipts."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import grpc
import pytest

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from runtime.errors import WorkerGone
from security.audit.receipt import check_answer, check_request, verify_receipt
from tests.support.appliance import Running, refused, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode


def stub(front: Running, *who: str) -> text_pb2_grpc.TextServiceStub:
    return text_pb2_grpc.TextServiceStub(front.channel(*who))


def generate(**fields) -> text_pb2.GenerateRequest:
    return text_pb2.GenerateRequest(**({"model": "tiny-generate"} | fields))


async def receipt_of(front: Running, call):
    trailers = dict(await call.trailing_metadata())
    verified = verify_receipt(trailers["casemate-receipt-bin"], front.vkeys())
    assert verified.entry.request_id == trailers["casemate-request-id"]
    return verified


async def test_a_stream_ends_with_a_completion_and_a_receipt(front: Running):
    call = stub(front).Generate(generate(prompt="hello world"))
    messages = [message async for message in call]
    text = "".join(m.delta.text for m in messages[:-1])
    done = messages[-1].completion
    assert text == "hello world"
    assert done.finish_reason == text_pb2.FINISH_REASON_END
    assert (done.model, done.version) == ("tiny-generate", "1.0.0")
    receipt = await receipt_of(front, call)
    assert receipt.entry.kind == "completed"
    assert receipt.entry.status == "OK"
    assert receipt.entry.principal.endswith("/device/camera-1")
    assert receipt.entry.bundle_digest == done.bundle_digest
    assert receipt.entry.policy_digest == front.appliance.policies.current.digest
    assert check_request(receipt, [b"hello world"])
    assert not check_request(receipt, [b"hello worlds"])
    assert check_answer(receipt, [text.encode()])


async def test_chat_is_committed_to_by_role_and_content(front: Running):
    chat = text_pb2.Chat(messages=[text_pb2.ChatMessage(role="user", content="hi")])
    call = stub(front).Generate(generate(chat=chat))
    assert [m async for m in call]
    assert check_request(await receipt_of(front, call), [b"user", b"hi"])


async def test_embed_score_classify(front: Running):
    service = stub(front)
    call = service.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=["ab", "abc"]))
    answer = await call
    assert [v.values[0] for v in answer.embeddings] == [2.0, 3.0]
    receipt = await receipt_of(front, call)
    assert check_request(receipt, [b"ab", b"abc"])
    packed = [struct.pack(f"<{len(v.values)}f", *v.values) for v in answer.embeddings]
    assert check_answer(receipt, packed)
    call = service.Score(text_pb2.ScoreRequest(model="tiny-generate", texts=["x"]))
    assert (await call).scores[0].logprob == -1.0
    assert check_answer(await receipt_of(front, call), [struct.pack("<f", -1.0)])
    call = service.Classify(text_pb2.ClassifyRequest(model="tiny-classify", inputs=["x"]))
    labels = (await call).classifications[0].labels
    part = b"".join(x.label.encode() + b"\0" + struct.pack("<f", x.score) for x in labels)
    assert check_answer(await receipt_of(front, call), [part])


S = text_pb2.Sampling
BAD_GENERATE = {
    "unknown model": ({"model": "tiny-none", "prompt": "x"}, Code.NOT_FOUND, "model"),
    "no model": ({"model": "", "prompt": "x"}, Code.INVALID_ARGUMENT, "model"),
    "unknown version": ({"version": "9.9.9", "prompt": "x"}, Code.NOT_FOUND, "version"),
    "wrong task": ({"model": "tiny-embed", "prompt": "x"}, Code.INVALID_ARGUMENT, "model"),
    "no input": ({}, Code.INVALID_ARGUMENT, "prompt"),
    "empty prompt": ({"prompt": ""}, Code.INVALID_ARGUMENT, "prompt"),
    "NUL in prompt": ({"prompt": "a\0b"}, Code.INVALID_ARGUMENT, "prompt"),
    "long prompt": ({"prompt": "é" * 501}, Code.INVALID_ARGUMENT, "prompt"),
    "beyond context": ({"prompt": "x", "max_tokens": 256}, Code.INVALID_ARGUMENT, "max_tokens"),
    "beyond the role": ({"prompt": "x", "max_tokens": 65}, Code.INVALID_ARGUMENT, "max_tokens"),
    "temperature": (
        {"prompt": "x", "sampling": S(temperature=2.5)},
        Code.INVALID_ARGUMENT,
        "sampling.temperature",
    ),
    "temperature NaN": (
        {"prompt": "x", "sampling": S(temperature=float("nan"))},
        Code.INVALID_ARGUMENT,
        "sampling.temperature",
    ),
    "top_p": ({"prompt": "x", "sampling": S(top_p=0)}, Code.INVALID_ARGUMENT, "sampling.top_p"),
    "min_p": ({"prompt": "x", "sampling": S(min_p=1)}, Code.INVALID_ARGUMENT, "sampling.min_p"),
    "repetition": (
        {"prompt": "x", "sampling": S(repetition_penalty=0)},
        Code.INVALID_ARGUMENT,
        "sampling.repetition_penalty",
    ),
    "presence": (
        {"prompt": "x", "sampling": S(presence_penalty=-3)},
        Code.INVALID_ARGUMENT,
        "sampling.presence_penalty",
    ),
    "many stops": ({"prompt": "x", "stop": ["s"] * 9}, Code.INVALID_ARGUMENT, "stop"),
    "empty stop": ({"prompt": "x", "stop": ["s", ""]}, Code.INVALID_ARGUMENT, "stop[1]"),
    "top_logprobs alone": (
        {"prompt": "x", "top_logprobs": 2},
        Code.INVALID_ARGUMENT,
        "top_logprobs",
    ),
    "top_logprobs": (
        {"prompt": "x", "logprobs": True, "top_logprobs": 6},
        Code.INVALID_ARGUMENT,
        "top_logprobs",
    ),
    "chat role": (
        {"chat": text_pb2.Chat(messages=[text_pb2.ChatMessage(role="root", content="x")])},
        Code.INVALID_ARGUMENT,
        "chat.messages[0].role",
    ),
    "empty chat": ({"chat": text_pb2.Chat()}, Code.INVALID_ARGUMENT, "chat.messages"),
    "forbidden model": ({"model": "other", "prompt": "x"}, Code.PERMISSION_DENIED, ""),
}


@pytest.mark.parametrize(
    ("fields", "code", "field"), BAD_GENERATE.values(), ids=BAD_GENERATE.keys()
)
async def test_a_bad_request_is_refused_and_the_field_named(front: Running, fields, code, field):
    refusal = await refused(stub(front).Generate(generate(**fields)))
    assert (refusal.code, refusal.field) == (code, field)
    assert refusal.reason


@pytest.mark.parametrize(
    ("inputs", "field"),
    [([], "inputs"), (["x"] * 5, "inputs"), (["x", ""], "inputs[1]"), (["a\0"], "inputs[0]")],
)
async def test_bad_inputs_are_refused_and_named(front: Running, inputs, field):
    service = stub(front)
    refusal = await refused(service.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=inputs)))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, field)


async def test_text_that_is_not_utf8_is_an_invalid_argument(front: Running):
    channel: Any = front.channel()
    call = channel.unary_stream("/casemate.v1.TextService/Generate")
    refusal = await refused(call(b"\x0a\x01m\x1a\x02\xff\xfe"))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "MALFORMED")


async def test_a_refusal_is_on_record(front: Running):
    size = front.appliance.log.size
    await refused(stub(front, "refused-once").Generate(generate(prompt="")))
    assert front.appliance.log.size == size + 1


async def test_a_message_over_the_limit_is_refused(front: Running):
    inputs = ["x" * 1000] * 5000
    refusal = await refused(
        stub(front).Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=inputs))
    )
    assert refusal.code is Code.RESOURCE_EXHAUSTED


class TestPolicy:
    async def test_a_role_without_a_line_is_refused(self, front: Running):
        refusal = await refused(stub(front, "ghost", "nobody").Generate(generate(prompt="x")))
        assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "METHOD_NOT_ALLOWED")

    async def test_a_method_without_a_line_is_refused(self, front: Running):
        service = stub(front, "thin", "narrow")
        assert [m async for m in service.Generate(generate(prompt="x"))]
        refusal = await refused(
            service.Score(text_pb2.ScoreRequest(model="tiny-generate", texts=["x"]))
        )
        assert refusal.reason == "METHOD_NOT_ALLOWED"

    async def test_logprobs_need_permission(self, front: Running):
        refusal = await refused(
            stub(front, "thin", "narrow").Generate(generate(prompt="x", logprobs=True))
        )
        assert (refusal.reason, refusal.field) == ("LOGPROBS_NOT_ALLOWED", "logprobs")

    async def test_requests_are_limited_per_principal(self, front: Running):
        service = stub(front, "eager", "slow")
        for _ in range(3):
            assert [m async for m in service.Generate(generate(prompt="x"))]
        refusal = await refused(service.Generate(generate(prompt="x")))
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "REQUEST_RATE")
        assert 0 < (refusal.retry_seconds or 0) <= 20
        other = stub(front, "eager-2", "slow")
        assert [m async for m in other.Generate(generate(prompt="x"))]

    async def test_tokens_are_reserved_and_settled(self, front: Running):
        service = stub(front, "saver", "thrifty")
        # 50 are reserved each time, 4 are used: five fit only because the rest comes back.
        for _ in range(3):
            assert [m async for m in service.Generate(generate(prompt="x", max_tokens=40))]
        refusal = await refused(service.Generate(generate(prompt="x" * 200, max_tokens=60)))
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "TOKEN_RATE")

    async def test_concurrency_is_limited_per_principal(self, front: Running):
        host = front.hosts["tiny-generate"]
        service = stub(front, "one", "single")
        host.paused = True
        try:
            first = service.Generate(generate(prompt="x"))
            await until(lambda: front.appliance.pipeline.open)
            refusal = await refused(service.Generate(generate(prompt="y")))
            assert refusal.reason == "TOO_MANY_CALLS_OF_PRINCIPAL"
        finally:
            host.resume()
        assert [m async for m in first]


class TestFilters:
    async def test_a_blocked_prompt_never_reaches_the_model(self, front: Running):
        before = len(front.hosts["tiny-generate"].submitted)
        refusal = await refused(
            stub(front).Generate(generate(prompt="A forb\u200bidden QUESTION?"))
        )
        assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "BLOCKED_BY_POLICY")
        assert len(front.hosts["tiny-generate"].submitted) == before
        assert "question" not in refusal.message

    async def test_a_redacted_prompt_reaches_the_model_redacted_but_is_committed_to_as_sent(
        self, front: Running
    ):
        prompt = "my card 4111 1111 1111 1111 ok"
        call = stub(front).Generate(generate(prompt=prompt))
        assert [m async for m in call]
        assert front.hosts["tiny-generate"].submitted[-1].generate.prompt == "my card [card] ok"
        receipt = await receipt_of(front, call)
        assert receipt.entry.verdicts == ("card:redact",)
        assert check_request(receipt, [prompt.encode()])

    async def test_a_flag_is_on_record(self, front: Running):
        call = stub(front).Generate(generate(prompt="nice weather"))
        assert [m async for m in call]
        assert (await receipt_of(front, call)).entry.verdicts == ("note:flag",)

    async def test_an_answer_is_redacted_across_deltas_with_its_logprobs(self, front: Running):
        host = front.hosts["tiny-generate"]
        host.says = "the card 4111-1111-1111-1111 is it"
        try:
            call = stub(front).Generate(generate(prompt="x", logprobs=True))
            messages = [m async for m in call]
        finally:
            host.says = None
        text = "".join(m.delta.text for m in messages)
        tokens = b"".join(t.token for m in messages for t in m.delta.logprobs)
        assert text == "the card [card] is it"
        assert b"1" not in tokens
        assert tokens.startswith(b"the card ")
        assert tokens.endswith(b"s it")
        assert check_answer(await receipt_of(front, call), [text.encode()])

    async def test_a_blocked_answer_ends_before_the_match_and_stops_the_work(self, front: Running):
        host = front.hosts["tiny-generate"]
        host.says = "Sure: the LAUNCH code is 0000 and then some"
        before = len(host.cancelled)
        try:
            messages = [m async for m in stub(front).Generate(generate(prompt="x"))]
        finally:
            host.says = None
        assert "".join(m.delta.text for m in messages) == "Sure: the "
        assert messages[-1].completion.finish_reason == text_pb2.FINISH_REASON_FILTERED
        assert len(host.cancelled) == before + 1

    async def test_score_embed_and_classify_inputs_are_filtered(self, front: Running):
        service, text = stub(front), "forbidden question"
        for call in (
            service.Score(text_pb2.ScoreRequest(model="tiny-generate", texts=[text])),
            service.Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=["x", text])),
            service.Classify(text_pb2.ClassifyRequest(model="tiny-classify", inputs=[text])),
        ):
            assert (await refused(call)).reason == "BLOCKED_BY_POLICY"

    async def test_a_scores_tokens_are_withheld_where_a_rule_would_change_them(
        self, front: Running
    ):
        # The redaction of the input leaves nothing for the output rule, so ask for the leak.
        request = text_pb2.ScoreRequest(model="tiny-generate", texts=["the launch code"])
        assert (await refused(stub(front).Score(request))).reason == "BLOCKED_BY_POLICY"


class TestTime:
    async def test_a_deadline_ends_the_call_and_cancels_the_work(self, front: Running):
        host = front.hosts["tiny-generate"]
        host.paused = True
        before = len(host.cancelled)
        try:
            call = stub(front).Generate(generate(prompt="x"), timeout=0.3)
            assert (await refused(call)).code is Code.DEADLINE_EXCEEDED
            await until(lambda: len(host.cancelled) == before + 1)
        finally:
            host.resume()

    async def test_a_cancelled_call_reaches_the_worker_and_the_record(self, front: Running):
        await until(lambda: not front.appliance.pipeline.open)
        host = front.hosts["tiny-generate"]
        host.paused = True
        before, size = len(host.cancelled), front.appliance.log.size
        try:
            call = stub(front).Generate(generate(prompt="x"))
            await until(lambda: front.appliance.pipeline.open)
            call.cancel()
            await until(lambda: len(host.cancelled) == before + 1)
        finally:
            host.resume()
        await until(lambda: front.appliance.log.size >= size + 2)

    async def test_a_dead_worker_is_unavailable_with_a_hint(self, front: Running):
        host = front.hosts["tiny-generate"]
        host.fail_with = WorkerGone(1500)
        try:
            refusal = await refused(stub(front).Generate(generate(prompt="x")))
        finally:
            host.fail_with = None
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "WORKER_GONE")
        assert refusal.retry_seconds == 1.5

    async def test_a_client_that_stops_reading_is_ended_by_its_deadline(self, front: Running):
        host = front.hosts["tiny-generate"]
        host.says = "x" * 3_000_000
        host.piece = 30_000
        try:
            call = stub(front).Generate(generate(prompt="x"), timeout=1.0)
            assert (await call.read()).delta.text
            # Others are answered while this one does not read.
            request = text_pb2.EmbedRequest(model="tiny-embed", inputs=["x"])
            assert await stub(front).Embed(request)
            await until(lambda: not front.appliance.pipeline.open)
        finally:
            host.says, host.piece = None, 3
        assert await call.code() is Code.DEADLINE_EXCEEDED

    async def test_the_appliances_own_limit_ends_a_call_nobody_reads(
        self, front: Running, monkeypatch
    ):
        limits = replace(front.appliance.parts.limits, default_deadline_seconds=0.5)
        monkeypatch.setattr(front.appliance.parts, "limits", limits)
        host = front.hosts["tiny-generate"]
        host.says, host.piece = "x" * 3_000_000, 30_000
        try:
            call = stub(front).Generate(generate(prompt="x"))
            assert (await call.read()).delta.text
            await until(lambda: not front.appliance.pipeline.open)
        finally:
            host.says, host.piece = None, 3
        assert await stub(front).Embed(text_pb2.EmbedRequest(model="tiny-embed", inputs=["x"]))
        with pytest.raises(grpc.aio.AioRpcError):
            await read_all(call)


async def read_all(call: Any) -> None:
    while await call.read():
        pass


async def test_an_internal_error_shows_nothing_of_itself(front: Running, caplog):
    host = front.hosts["tiny-generate"]
    host.fail_with = ValueError("it choked on: my secret prompt")
    try:
        refusal = await refused(stub(front).Generate(generate(prompt="my secret prompt")))
    finally:
        host.fail_with = None
    assert (refusal.code, refusal.message) == (Code.INTERNAL, "an internal error")
    assert "secret" not in caplog.text
