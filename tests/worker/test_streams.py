"""One request's stream: order, merging, bounds, cancellation, one end."""

from __future__ import annotations

import pytest

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import FailureReason, WorkerGone, WorkFailed
from runtime.worker.streams import WorkStream, failure_from_wire


def delta(text: str) -> worker_pb2.FromWorker:
    message = worker_pb2.FromWorker()
    message.delta.id = 7
    message.delta.delta.text = text
    return message


def completed() -> worker_pb2.FromWorker:
    return worker_pb2.FromWorker(completed=worker_pb2.Completed(id=7, queue_ms=3))


class Subject:
    def __init__(self, max_bytes: int = 1000) -> None:
        self.cancelled: list[int] = []
        self.stream = WorkStream(7, self.cancelled.append, max_bytes)

    async def read(self) -> tuple[str, bool]:
        text, ended = "", False
        async for message in self.stream:
            if message.HasField("completed"):
                ended = True
            else:
                text += message.delta.delta.text
        return text, ended


async def test_deltas_arrive_in_order_and_then_the_end() -> None:
    subject = Subject()
    for part in ("a", "b", "c"):
        subject.stream.push(delta(part), 1)
    subject.stream.push(completed(), 1)
    assert await subject.read() == ("abc", True)


async def test_waiting_deltas_are_merged_without_loss() -> None:
    subject = Subject()
    for number in range(500):
        subject.stream.push(delta(chr(97 + number % 26)), 1)
    subject.stream.push(completed(), 1)
    messages = [message async for message in subject.stream]
    assert len(messages) < 50
    text = "".join(message.delta.delta.text for message in messages)
    assert text == "".join(chr(97 + number % 26) for number in range(500))


async def test_a_reader_that_lags_for_ever_loses_its_own_stream_only() -> None:
    subject = Subject(max_bytes=100)
    for _ in range(101):
        subject.stream.push(delta("x"), 1)
    assert subject.cancelled == [7]
    with pytest.raises(WorkFailed) as caught:
        await subject.read()
    assert caught.value.reason is FailureReason.CAPACITY


async def test_a_reader_that_keeps_up_is_not_bounded_in_total() -> None:
    subject = Subject(max_bytes=100)
    for _ in range(1000):
        subject.stream.push(delta("x"), 60)
        message = await anext(subject.stream)
        assert message.delta.delta.text == "x"


async def test_death_comes_after_what_was_already_there() -> None:
    subject = Subject()
    subject.stream.push(delta("a"), 1)
    subject.stream.fail(WorkerGone(500))
    assert (await anext(subject.stream)).delta.delta.text == "a"
    with pytest.raises(WorkerGone):
        await anext(subject.stream)
    with pytest.raises(StopAsyncIteration):
        await anext(subject.stream)


async def test_a_cancel_drops_what_waits_and_is_sent_once() -> None:
    subject = Subject()
    subject.stream.push(delta("a"), 1)
    subject.stream.cancel()
    subject.stream.cancel()
    subject.stream.push(delta("b"), 1)
    assert subject.cancelled == [7]
    with pytest.raises(WorkFailed) as caught:
        await anext(subject.stream)
    assert caught.value.reason is FailureReason.CANCELLED


async def test_leaving_the_context_cancels_what_runs() -> None:
    subject = Subject()
    async with subject.stream:
        subject.stream.push(delta("a"), 1)
    assert subject.cancelled == [7]


async def test_leaving_the_context_after_the_end_cancels_nothing() -> None:
    subject = Subject()
    async with subject.stream:
        subject.stream.push(completed(), 1)
        assert (await subject.stream.result()).queue_ms == 3
    assert subject.cancelled == []


async def test_nothing_follows_the_end() -> None:
    subject = Subject()
    subject.stream.push(completed(), 1)
    subject.stream.push(delta("late"), 1)
    subject.stream.fail(WorkerGone(1))
    assert await subject.read() == ("", True)


def test_a_hostile_failure_is_cut_to_size() -> None:
    failed = worker_pb2.Failed(id=7, field="f" * 5000, detail="d" * 5000)
    error = failure_from_wire(failed)
    assert error.reason is FailureReason.INTERNAL
    assert len(str(error)) < 500


def test_a_hostile_failure_is_printable() -> None:
    failed = worker_pb2.Failed(id=7, field="a\x1b[2J\u202e", detail="b\r\nforged line\u2028")
    error = failure_from_wire(failed)
    assert (error.field, error.detail) == ("a?[2J?", "b??forged line?")
