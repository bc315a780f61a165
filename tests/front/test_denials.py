"""Refusals beyond a caller's allowance of entries are counted, and the count is on record."""

from __future__ import annotations

import json

import grpc
import pytest

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from runtime.front import denials
from runtime.front.denials import ENTRIES_PER_MINUTE, INTERVAL_SECONDS, DenialMeter, Unlisted
from security.errors import AuditError
from tests.support.appliance import refused, started

NOT_ALLOWED = text_pb2.GenerateRequest(model="tiny-generate", prompt="")
MORE = 7


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestMeter:
    def test_beyond_the_allowance_they_are_counted_until_the_interval_is_over(self):
        clock = Clock()
        meter = DenialMeter(clock)
        admitted = [meter.admit("a", "id-a", "device") for _ in range(ENTRIES_PER_MINUTE + 3)]
        assert admitted == [True] * ENTRIES_PER_MINUTE + [False] * 3
        assert meter.admit("b")
        assert meter.due() == []
        clock.now += INTERVAL_SECONDS
        assert meter.due() == [Unlisted("id-a", "device", 3)]
        assert meter.due() == []
        assert meter.admit("a")

    def test_the_allowance_comes_back_over_time(self):
        clock = Clock()
        meter = DenialMeter(clock)
        while meter.admit("a"):
            pass
        clock.now += 60 / ENTRIES_PER_MINUTE
        assert meter.admit("a")
        assert not meter.admit("a")

    def test_callers_beyond_what_is_remembered_share_one_allowance(self, monkeypatch):
        monkeypatch.setattr(denials, "MAX_CALLERS", 3)
        meter = DenialMeter(Clock())
        entries = sum(meter.admit(str(n), f"id-{n}", "device") for n in range(1000))
        assert entries == 3 + ENTRIES_PER_MINUTE
        assert meter.due(all_of_them=True) == [Unlisted("", "", 1000 - entries)]

    def test_a_caller_is_forgotten_only_when_that_changes_nothing(self, monkeypatch):
        monkeypatch.setattr(denials, "MAX_CALLERS", 1)
        clock = Clock()
        meter = DenialMeter(clock)
        while meter.admit("a", "id-a"):
            pass
        meter.admit("b", "id-b")
        clock.now += 120
        assert meter.due() == [Unlisted("id-a", "", 1)]
        while meter.admit("c", "id-c"):
            pass
        assert meter.due(all_of_them=True) == [Unlisted("id-c", "", 1)]


async def test_a_flood_of_refusals_does_not_fill_the_log(tmp_path, caplog):
    async with started(tmp_path / "domain") as front:
        caplog.set_level("INFO", "casemate.front")
        service = text_pb2_grpc.TextServiceStub(front.channel("noisy"))
        log = front.appliance.log
        size = log.size
        for _ in range(ENTRIES_PER_MINUTE + MORE):
            assert (await refused(service.Generate(NOT_ALLOWED))).reason
        assert log.size == size + ENTRIES_PER_MINUTE
        ended = [r for r in caplog.records if r.message.startswith("call ended")]
        assert len(ended) == ENTRIES_PER_MINUTE
        # Another one's refusals are listed all the same.
        other = text_pb2_grpc.TextServiceStub(front.channel("quiet"))
        await refused(other.Generate(NOT_ALLOWED))
        assert log.size == size + ENTRIES_PER_MINUTE + 1
        folder = front.appliance.config.audit
    data = b"".join(p.read_bytes() for p in folder.rglob("tile/entries/**/*") if p.is_file())
    start = data.index(b'"detail":"7 more refused"')
    start = data.rindex(b"{", 0, start)
    entry = json.loads(data[start : data.index(b"}", start) + 1])
    assert entry["kind"] == "denied"
    assert entry["principal"].endswith("/device/noisy")


@pytest.mark.parametrize("healthy_at_first", [True, False])
async def test_a_refusal_that_cannot_be_recorded_says_so(tmp_path, monkeypatch, healthy_at_first):
    from concurrent.futures import Future

    async with started(tmp_path / "domain") as front:
        failed: Future[int] = Future()
        failed.set_exception(AuditError("the disk is full"))
        with monkeypatch.context() as patch:
            if healthy_at_first:
                patch.setattr(front.appliance.log, "append", lambda entry: failed)
            else:
                front.appliance.log._fail(OSError(28, "No space left on device"))
            service = text_pb2_grpc.TextServiceStub(front.channel("camera-1"))
            request = text_pb2.GenerateRequest(model="not-there", prompt="x")
            refusal = await refused(service.Generate(request))
        assert refusal.reason == "AUDIT_UNAVAILABLE"
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
