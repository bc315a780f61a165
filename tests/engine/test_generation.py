"""The engine's behaviour, over the in-memory model."""

from __future__ import annotations

import itertools
import time

import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.errors import DecodeError, FailureReason, NoSlotError
from runtime.engine.memory import MemoryBackend, Part
from runtime.engine.types import (
    ChatMessage,
    ChatPrompt,
    Event,
    FinishReason,
    GenerateRequest,
    TextPrompt,
)
from tests.engine.harness import Harness, Stream, running

LONG = EngineConfig(prefill_turn_tokens=16)


def alone(prompt: str, max_tokens: int = 8) -> str:
    """What the model answers to a prompt when nobody else is there."""
    with running(MemoryBackend()) as engine:
        stream = engine.generate(prompt, max_tokens=max_tokens)
        stream.done()
        return stream.text


def test_answers_with_the_scripted_text_and_counts_tokens() -> None:
    with running(MemoryBackend(scripts={b"Q:": b"an answer"})) as engine:
        stream = engine.generate("Q:", max_tokens=100)
        done = stream.done()
    assert stream.text == "an answer"
    assert done.finish_reason is FinishReason.END
    # BOS and two bytes; nine bytes and the end of the turn.
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 10)


def test_ends_at_max_tokens() -> None:
    with running(MemoryBackend(scripts={b"Q:": b"an answer"})) as engine:
        stream = engine.generate("Q:", max_tokens=4)
        done = stream.done()
    assert stream.text == "an a"
    assert done.finish_reason is FinishReason.LENGTH
    assert done.usage.completion_tokens == 4


def test_requests_in_one_batch_answer_as_they_would_alone() -> None:
    prompts = [f"prompt number {index} " * (index + 1) for index in range(6)]
    expected = [alone(prompt) for prompt in prompts]
    with running(MemoryBackend(), LONG) as engine:
        streams = [engine.generate(prompt) for prompt in prompts]
        for stream in streams:
            stream.done()
    assert [stream.text for stream in streams] == expected


def test_a_request_joins_at_the_next_step_and_leaves_when_it_is_done() -> None:
    backend = MemoryBackend(scripts={b"one": b"1" * 40, b"two": b"22"})
    late: list[Stream] = []
    with running(backend) as engine:

        def join(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 5:
                late.append(engine.generate("two"))

        backend.before_decode = join
        first = engine.generate("one", max_tokens=60)
        first.done()
        late[0].done()
    widths = [len(parts) for parts in backend.steps]
    # Sent during step 5: its prompt is step 7, it decodes in 8 and 9, and is gone again.
    assert widths[:7] == [1] * 7
    assert len(backend.steps[6][0].tokens) == 1 + len("two")
    assert widths[7:9] == [2, 2]
    assert set(widths[9:]) == {1}
    assert late[0].text == "22"


def test_a_long_prompt_does_not_hold_up_those_who_decode() -> None:
    backend = MemoryBackend(scripts={b"first": b"x" * 60})
    with running(backend, LONG) as engine:

        def join(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 3:
                engine.generate("long " * 40, max_tokens=2)

        backend.before_decode = join
        first = engine.generate("first", max_tokens=100)
        first.done()
    (slot,) = {part.slot for part in backend.steps[0]}
    prefills = [
        index
        for index, parts in enumerate(backend.steps)
        if parts[0].slot != slot and len(parts[0].tokens) > 1
    ]
    assert len(prefills) > 10
    for before, after in itertools.pairwise(prefills):
        between = backend.steps[before + 1 : after]
        assert [[part.slot for part in parts] for parts in between] == [[slot]]
    for index in prefills:
        (chunk,) = backend.steps[index]
        assert len(chunk.tokens) <= LONG.prefill_turn_tokens


def test_decoding_and_prefill_never_share_a_step() -> None:
    backend = MemoryBackend()
    with running(backend, LONG) as engine:
        streams = [engine.generate("p" * length, max_tokens=20) for length in (3, 50, 9, 90)]
        for stream in streams:
            stream.done()
    for parts in backend.steps:
        assert len({part.position == 0 or len(part.tokens) > 1 for part in parts}) == 1


def test_short_prompts_share_a_step_and_long_ones_do_not() -> None:
    backend = MemoryBackend()
    streams: list[Stream] = []
    with running(backend, EngineConfig(prefill_turn_tokens=256)) as engine:

        def submit_more(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                streams.extend(engine.generate(letter * 20, max_tokens=1) for letter in "ab")
                streams.extend(engine.generate(letter * 100, max_tokens=1) for letter in "cd")

        backend.before_decode = submit_more
        engine.generate("z", max_tokens=1).done()
        for stream in streams:
            stream.done()
    prompts = [[chr(part.tokens[-1]) for part in parts] for parts in backend.steps[1:]]
    assert prompts[:3] == [["a", "b"], ["c"], ["d"]]


def test_prompts_are_prefilled_in_the_order_they_came() -> None:
    backend = MemoryBackend()
    with running(backend, LONG) as engine:

        def submit_more(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                streams.extend(engine.generate(letter * 40, max_tokens=1) for letter in "abc")

        streams: list[Stream] = []
        backend.before_decode = submit_more
        engine.generate("z", max_tokens=1).done()
        for stream in streams:
            stream.done()
    order = [
        chr(part.tokens[-1]) for parts in backend.steps for part in parts if len(part.tokens) > 1
    ]
    assert [letter for letter in order if letter in "abc"] == sorted(order[1:])


def test_waits_for_room_and_then_runs() -> None:
    backend = MemoryBackend(kv_tokens=64)
    with running(backend) as engine:
        streams = [engine.generate("p" * 20, max_tokens=20) for _ in range(4)]
        for stream in streams:
            stream.done()
        stats = engine.engine.stats()
    assert all(len(parts) == 1 for parts in backend.steps)
    assert (stats.running, stats.waiting) == (0, 0)


def test_no_overtaking_of_a_request_that_waits_for_room() -> None:
    backend = MemoryBackend(kv_tokens=100, scripts={b"big": b"B" * 50, b"tiny": b"t"})
    order: list[str] = []
    with running(backend) as engine:
        submitted: list[Stream] = []

        def fill(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                submitted.extend(
                    [
                        engine.generate("big" + "x" * 40 + "big", max_tokens=40),
                        engine.generate("tiny", max_tokens=2),
                    ]
                )

        backend.before_decode = fill
        engine.generate("big", max_tokens=50).done()
        for name, stream in zip(("big", "tiny"), submitted, strict=True):
            stream.done()
            order.append(name)
    first_seen = [
        part.tokens[:4] for parts in backend.steps for part in parts if part.position == 0
    ]
    assert [bytes(token % 256 for token in tokens[1:]) for tokens in first_seen] == [
        b"big",
        b"big",
        b"tin",
    ]


def test_tenants_take_turns() -> None:
    """A tenant with many requests waiting does not hold up another's first."""
    backend = MemoryBackend()
    config = EngineConfig(max_sequences=2, prefix_reuse=False)
    with running(backend, config) as engine:
        sent: list[Stream] = []

        def flood(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                sent.extend(engine.generate("greedy", tenant=b"a", max_tokens=3) for _ in range(6))
                sent.append(engine.generate("modest", tenant=b"b", max_tokens=3))

        backend.before_decode = flood
        sent.append(engine.generate("opener", tenant=b"a", max_tokens=3))
        sent[0].done()
        engine.engine.drain(30)
    starts = [
        bytes(token % 256 for token in part.tokens[1:])
        for parts in backend.steps
        for part in parts
        if part.position == 0
    ]
    assert starts[:2] == [b"opener", b"modest"]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "field", "reason"),
    [
        ("p" * 600, 1, "prompt", FailureReason.INVALID_ARGUMENT),
        ("p" * 512, 1, "prompt", FailureReason.INVALID_ARGUMENT),
        ("p" * 20, 500, "max_tokens", FailureReason.INVALID_ARGUMENT),
        ("p" * 20, 400, "max_tokens", FailureReason.CAPACITY),
        ("p" * 400, 1, "prompt", FailureReason.CAPACITY),
    ],
)
def test_refuses_what_can_never_fit(
    prompt: str, max_tokens: int, field: str, reason: FailureReason
) -> None:
    backend = MemoryBackend(kv_tokens=300, context_tokens=512)
    with running(backend) as engine:
        failure = engine.generate(prompt, max_tokens=max_tokens).failure()
    assert (failure.field, failure.reason) == (field, reason)
    assert backend.steps == []


def test_text_that_is_no_unicode_is_refused() -> None:
    with running(MemoryBackend()) as engine:
        failure = engine.generate("half a pair \ud800").failure()
        assert failure.reason is FailureReason.INVALID_ARGUMENT
        assert engine.score("\ud800").failure().reason is FailureReason.INVALID_ARGUMENT


def test_a_default_max_tokens_shrinks_to_the_context() -> None:
    with running(MemoryBackend(context_tokens=64)) as engine:
        done = engine.generate("p" * 59, max_tokens=100, fit_context=True).done()
    assert done.finish_reason is FinishReason.LENGTH
    assert done.usage.completion_tokens == 4


def test_refuses_more_than_may_wait() -> None:
    backend = MemoryBackend()
    with running(backend, EngineConfig(max_sequences=1, max_waiting=2)) as engine:
        refused: list[Stream] = []

        def overload(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                refused.extend(engine.generate("more") for _ in range(4))

        backend.before_decode = overload
        engine.generate("one").done()
        ends = [stream.wait() for stream in refused]
    assert [getattr(end, "reason", None) for end in ends] == [
        None,
        None,
        FailureReason.CAPACITY,
        FailureReason.CAPACITY,
    ]


def test_a_cancelled_request_is_in_no_later_step() -> None:
    backend = MemoryBackend(scripts={b"go": b"x" * 200})
    with running(backend) as engine:

        def cancel(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 4:
                engine.engine.cancel(77)

        backend.before_decode = cancel
        failure = engine.generate("go", max_tokens=300, request_id=77).failure()
        engine.engine.drain(30)
    assert failure.reason is FailureReason.CANCELLED
    assert len(backend.steps) == 4


def test_a_cancelled_request_that_waits_never_starts() -> None:
    backend = MemoryBackend()
    with running(backend, EngineConfig(max_sequences=1)) as engine:
        waiting: list[Stream] = []

        def enqueue(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                waiting.append(engine.generate("second", request_id=78))
                engine.engine.cancel(78)
                engine.engine.cancel(12345)

        backend.before_decode = enqueue
        engine.generate("first").done()
        assert waiting[0].failure().reason is FailureReason.CANCELLED
    assert sum(part.position == 0 for parts in backend.steps for part in parts) == 1


def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        failure = engine.generate("late", deadline=time.monotonic() - 1).failure()
    assert failure.reason is FailureReason.DEADLINE
    assert backend.steps == []


def test_a_deadline_ends_a_running_and_a_waiting_request(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("runtime.engine.generation.time.monotonic", lambda: clock[0])
    backend = MemoryBackend(scripts={b"go": b"x" * 300})
    with running(backend, EngineConfig(max_sequences=1)) as engine:
        waiting: list[Stream] = []

        def pass_time(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                waiting.append(engine.generate("second", deadline=1004.0))
            if len(backend.steps) == 5:
                clock[0] = 1005.0

        backend.before_decode = pass_time
        failure = engine.generate("go", max_tokens=300, deadline=1005.0).failure()
        late = waiting[0].failure()
    assert failure.reason is late.reason is FailureReason.DEADLINE
    assert len(backend.steps) == 5


def test_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    with running(MemoryBackend()) as engine:
        stream = engine.generate("one")
        assert engine.engine.drain(30)
        assert stream.done()
        assert engine.generate("two").failure().reason is FailureReason.CAPACITY


def test_close_ends_every_request_and_frees_the_model() -> None:
    backend = MemoryBackend(scripts={b"go": b"x" * 300})
    with running(backend) as engine:
        streams: list[Stream] = []

        def stop(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 3:
                engine.engine._inbox.put(None)

        backend.before_decode = stop
        streams = [engine.generate("go", max_tokens=300) for _ in range(3)]
        for stream in streams:
            stream.failure()
    assert backend.closed
    assert not engine.engine.alive


def test_an_id_in_use_is_refused() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        again: list[Stream] = []

        def reuse(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                again.append(engine.generate("b", request_id=5))

        backend.before_decode = reuse
        engine.generate("a", request_id=5).done()
        assert again[0].failure().field == "id"
        engine.generate("c", request_id=5).done()


def test_a_client_whose_callable_raises_harms_nobody() -> None:
    with running(MemoryBackend(scripts={b"go": b"x" * 30})) as engine:

        def broken(_event: Event) -> None:
            raise RuntimeError("gone")

        engine.engine.submit(GenerateRequest(900, b"t", TextPrompt("go")), broken)
        other = engine.generate("go", max_tokens=10)
        assert other.done().finish_reason is FinishReason.LENGTH
        assert engine.engine.drain(30)


def test_a_sequence_that_cannot_be_computed_fails_alone() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:

        def poison(parts: tuple[Part, ...]) -> None:
            if any(ord("!") in part.tokens for part in parts):
                raise DecodeError("poison")

        backend.before_decode = poison
        good = [engine.generate(f"good {index}") for index in range(3)]
        bad = engine.generate("bad!")
        after = engine.generate("after")
        assert bad.failure().reason is FailureReason.INTERNAL
        for stream in [*good, after]:
            stream.done()
    assert [stream.text for stream in good] == [alone(f"good {index}") for index in range(3)]


def test_a_failed_step_is_repeated_from_the_state_before_it() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        failures: list[int] = []
        streams: list[Stream] = []

        def hiccup(parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 1:
                streams.extend(engine.generate(f"hiccup {index}") for index in (1, 2))
            if len(parts) == 3 and not failures:
                failures.append(len(backend.steps))
                raise DecodeError("once")

        backend.before_decode = hiccup
        first = engine.generate("hiccup 0", max_tokens=8)
        first.done()
        streams.insert(0, first)
        for stream in streams:
            stream.done()
    assert failures
    assert [stream.text for stream in streams] == [alone(f"hiccup {index}") for index in range(3)]


def test_no_slot_evicts_what_is_kept_and_tries_again() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        engine.generate("a prompt to be kept for later").done()
        held = backend.cells_used

        def full(_parts: tuple[Part, ...]) -> None:
            if backend.cells_used >= held:
                raise NoSlotError("full")

        backend.before_decode = full
        assert held > 0
        assert engine.generate("q", tenant=b"other", max_tokens=3).done()


def test_no_slot_with_nothing_to_evict_fails_with_capacity() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:

        def full(_parts: tuple[Part, ...]) -> None:
            raise NoSlotError("full")

        backend.before_decode = full
        assert engine.generate("q").failure().reason is FailureReason.CAPACITY
        backend.before_decode = None
        assert engine.generate("q").done()


def test_a_defect_in_the_engine_ends_every_request() -> None:
    backend = MemoryBackend()

    def explode(_parts: tuple[Part, ...]) -> None:
        raise ZeroDivisionError

    backend.before_decode = explode
    with running(backend) as engine:
        failure = engine.generate("q").failure()
        assert failure.reason is FailureReason.INTERNAL
        assert engine.generate("r").failure().reason is FailureReason.CAPACITY
        assert isinstance(engine.engine.defect, ZeroDivisionError)


def test_a_conversation_without_a_template_is_unsupported() -> None:
    with running(MemoryBackend()) as engine:
        stream = Stream()
        prompt = ChatPrompt((ChatMessage("user", "hello"),))
        engine.engine.submit(GenerateRequest(1, b"t", prompt), stream)
        failure = stream.failure()
    assert (failure.reason, failure.field) == (FailureReason.UNSUPPORTED, "chat")


def test_no_representation_shows_text() -> None:
    secret = "sesame"
    request = GenerateRequest(1, b"t", TextPrompt(secret), stop=(secret,))
    chat = ChatPrompt((ChatMessage("user", secret),))
    assert secret not in repr(request) + repr(chat)
    with running(MemoryBackend(scripts={b"Q": b"sesame"})) as engine:
        stream = engine.generate("Q", max_tokens=20, logprobs=True)
        stream.done()
    assert secret in stream.text
    assert secret not in repr(stream.events)


def test_an_idle_engine_takes_no_steps() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        harness: Harness = engine
        harness.generate("a").done()
        steps = len(backend.steps)
        assert harness.engine.stats().steps == steps
        harness.engine.cancel(404)
        assert harness.engine.drain(30)
        assert harness.engine.stats().steps == steps
