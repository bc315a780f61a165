"""The front's own small parts, without a network: limits, the bridge, log-probabilities, logs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import json
import logging
import threading

import grpc
import pytest

from casemate.pb.casemate.v1 import text_pb2
from runtime.filters.rules import RuleSet, compile_rule
from runtime.filters.stream import StreamFilter
from runtime.front.bridge import Bridge
from runtime.front.errors import Refusal, as_refusal
from runtime.front.limits import Limiter
from runtime.front.recent import RECENT_SECONDS, RecentVerifier
from runtime.front.registry import FILES
from runtime.front.services.logprobs import LogprobGate
from runtime.front.services.reflection import private_pool
from runtime.logs import JsonFormatter, PlainFormatter
from runtime.policy.model import RoleLimits
from security.identity.peer import PeerRefused


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestLimiter:
    LIMITS = RoleLimits(requests_per_minute=60, tokens_per_minute=600, max_concurrent=2)

    def test_an_allowance_comes_back_over_time(self):
        clock = Clock()
        limiter = Limiter(100, clock)
        for _ in range(60):
            limiter.enter("a", self.LIMITS)()
        with pytest.raises(Refusal) as refused:
            limiter.enter("a", self.LIMITS)
        assert refused.value.retry_after_seconds == pytest.approx(1.0)
        clock.now += 1.0
        limiter.enter("a", self.LIMITS)()
        with pytest.raises(Refusal, match="REQUEST_RATE"):
            limiter.enter("a", self.LIMITS)

    def test_what_was_not_used_of_a_reservation_comes_back(self):
        limiter = Limiter(100, Clock())
        settle = limiter.reserve("a", self.LIMITS, 500)
        with pytest.raises(Refusal, match="TOKEN_RATE"):
            limiter.reserve("a", self.LIMITS, 200)
        settle(10)
        limiter.reserve("a", self.LIMITS, 500)

    def test_what_was_used_beyond_a_reservation_is_owed(self):
        clock = Clock()
        limiter = Limiter(100, clock)
        limiter.reserve("a", self.LIMITS, 10)(1210)
        clock.now += 60
        with pytest.raises(Refusal, match="TOKEN_RATE"):
            limiter.reserve("a", self.LIMITS, 1)

    def test_a_request_larger_than_the_allowance_needs_a_full_bucket(self):
        limiter = Limiter(100, Clock())
        limiter.reserve("a", self.LIMITS, 10_000)
        with pytest.raises(Refusal, match="TOKEN_RATE"):
            limiter.reserve("a", self.LIMITS, 1)

    def test_all_together_are_limited(self):
        limiter = Limiter(2, Clock())
        leave = limiter.enter("a", self.LIMITS)
        limiter.enter("b", self.LIMITS)
        with pytest.raises(Refusal, match="TOO_MANY_CALLS"):
            limiter.enter("c", self.LIMITS)
        leave()
        limiter.enter("c", self.LIMITS)

    def test_new_limits_keep_what_was_used(self):
        limiter = Limiter(100, Clock())
        limiter.reserve("a", self.LIMITS, 600)
        wider = RoleLimits(tokens_per_minute=700)
        limiter.reserve("a", wider, 100)
        with pytest.raises(Refusal, match="TOKEN_RATE"):
            limiter.reserve("a", wider, 1)


class TestBridge:
    async def test_results_of_a_thread_arrive_in_order_with_few_wake_ups(self):
        bridge = Bridge()
        sources: list[concurrent.futures.Future[int]] = [
            concurrent.futures.Future() for _ in range(100)
        ]
        order: list[int] = []
        targets = [bridge.wrap(source) for source in sources]
        for target in targets:
            target.add_done_callback(lambda done: order.append(done.result()))

        def resolve() -> None:
            for number, source in enumerate(sources):
                source.set_result(number)

        thread = threading.Thread(target=resolve)
        thread.start()
        assert await asyncio.gather(*targets) == list(range(100))
        thread.join()
        assert order == list(range(100))

    async def test_a_failure_arrives_and_a_cancelled_waiter_disturbs_nobody(self):
        bridge = Bridge()
        first: concurrent.futures.Future[int] = concurrent.futures.Future()
        second: concurrent.futures.Future[int] = concurrent.futures.Future()
        waiting, failing = bridge.wrap(first), bridge.wrap(second)
        waiting.cancel()
        first.set_result(1)
        second.set_exception(OSError("full"))
        with pytest.raises(OSError, match="full"):
            await failing
        assert first.result() == 1


class _Verifier:
    def __init__(self) -> None:
        self.asked = 0
        self.revoked = False

    def verify(self, certificate_pem: bytes):
        self.asked += 1
        if self.revoked:
            raise PeerRefused("revoked", "revoked")
        return certificate_pem


def test_a_peer_is_looked_up_again_after_a_moment_and_a_refusal_is_not_remembered():
    clock, verifier = Clock(), _Verifier()
    recent = RecentVerifier(verifier, clock)
    assert recent.verify(b"a") == recent.verify(b"a")
    assert verifier.asked == 1
    verifier.revoked = True
    clock.now += RECENT_SECONDS
    for _ in range(2):
        with pytest.raises(PeerRefused):
            recent.verify(b"a")
    assert verifier.asked == 3


class TestLogprobs:
    def rules(self) -> RuleSet:
        return RuleSet(
            [
                compile_rule(
                    name="r",
                    patterns=[],
                    literals=["secret"],
                    action="redact",
                    direction="out",
                    roles=("*",),
                    models=("*",),
                    replacement="[x]",
                    max_match_chars=None,
                )
            ]
        )

    def run(self, pieces, tokens):
        rules = self.rules()
        gate, stream = LogprobGate(rules), StreamFilter(rules)
        left = []
        for piece, group in zip(pieces, tokens, strict=True):
            gate.add(piece, group)
            left += gate.release(stream.feed(piece))
        return [token.token for token in left + gate.release(stream.finish())]

    def test_tokens_of_redacted_text_stay_whatever_their_cut(self):
        tokens = [[text_pb2.TokenLogprob(token=t)] for t in (b"a se", b"cr", b"et b", b" c")]
        assert self.run(["a se", "cr", "et b", " c"], tokens) == [b" c"]

    def test_a_character_may_be_cut_between_tokens(self):
        tokens = [[], [text_pb2.TokenLogprob(token=t) for t in (b"\xc3", b"\xa9!")]]
        assert self.run(["", "é!"], tokens) == [b"\xc3", b"\xa9!"]

    def test_tokens_that_are_not_the_text_stay_with_all_after_them(self):
        tokens = [[text_pb2.TokenLogprob(token=t) for t in (b"ab", b"XX", b"ef")]]
        assert self.run(["abcdef"], tokens) == [b"ab"]

    def test_tokens_beyond_the_text_stay(self):
        tokens = [[text_pb2.TokenLogprob(token=t) for t in (b"ab", b"cSTOP")]]
        assert self.run(["abc"], tokens) == [b"ab"]

    @pytest.mark.parametrize(("action", "kept"), [("redact", 0), ("block", 0), ("flag", 2)])
    def test_alternatives_stay_where_a_rule_could_withhold_what_they_complete(self, action, kept):
        rules = RuleSet([dataclasses.replace(self.rules().rules[0], action=action)])
        gate, stream = LogprobGate(rules), StreamFilter(rules)
        token = text_pb2.TokenLogprob(token=b"w", logprob=-0.5)
        # With what was released before it: "secret".
        token.alternatives.add(token=b"ret", logprob=-1)
        token.alternatives.add(token=b"fine", logprob=-2)
        gate.add("secw", [text_pb2.TokenLogprob(token=b"sec"), token])
        left = gate.release(stream.feed("secw"))
        assert [entry.token for entry in left] == [b"sec", b"w"]
        assert left[1].logprob == pytest.approx(-0.5)
        assert len(left[1].alternatives) == kept


def test_an_unknown_error_becomes_internal_without_its_text():
    refusal = as_refusal(KeyError("the prompt"))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "prompt" not in refusal.message + refusal.detail + str(refusal)


def test_reflection_has_every_schema_and_what_it_imports():
    pool = private_pool(FILES)
    assert pool.FindServiceByName("casemate.v1.TextService").methods
    assert pool.FindServiceByName("inference.GRPCInferenceService").methods


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()])
def test_a_log_line_has_no_message_of_an_exception_and_no_unknown_field(formatter):
    record = logging.LogRecord("casemate.x", logging.ERROR, "f", 1, "it %s", ("failed",), None)
    record.request_id, record.prompt = "r1", "secret"
    try:
        raise ValueError("secret text")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = formatter.format(record)
    assert "secret" not in line
    assert "it failed" in line
    assert "r1" in line
    assert "ValueError" in line
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["level"] == "error"
