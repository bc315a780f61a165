"""Text out of token bytes: UTF-8, stop strings, and what holds them back."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.answer import Answer
from runtime.engine.detokenize import Detokenizer
from runtime.engine.memory import MemoryBackend
from runtime.engine.stops import StopMatcher
from runtime.engine.types import FinishReason, TokenLogprob
from tests.engine.harness import running


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(point % (len(data) + 1) for point in cuts)})
    return [data[a:b] for a, b in pairwise(points)]


@given(st.binary(max_size=40), st.lists(st.integers(0, 1000)))
def test_any_cut_of_any_bytes_decodes_as_the_whole(data: bytes, cuts: list[int]) -> None:
    decoder = Detokenizer()
    parts = [decoder.push(piece) for piece in cut(data, cuts)]
    assert "".join(parts) + decoder.finish() == data.decode("utf-8", "replace")


@given(st.text(max_size=20), st.lists(st.integers(0, 1000)))
def test_valid_text_never_shows_a_replacement(text: str, cuts: list[int]) -> None:
    text = text.replace("\ufffd", "")
    decoder = Detokenizer()
    for piece in cut(text.encode(), cuts):
        assert "\ufffd" not in decoder.push(piece)
    assert decoder.finish() == ""


def test_an_unfinished_character_is_held_and_a_wrong_one_is_replaced() -> None:
    decoder = Detokenizer()
    assert decoder.push(b"a\xf0\x9f") == "a"
    assert decoder.holds_bytes
    assert decoder.push(b"\x98\x80") == "😀"
    assert decoder.push(b"\xf0\x9f") == ""
    assert decoder.push(b"b") == "\ufffdb"
    assert decoder.push(b"\xe2\x82") == ""
    assert decoder.finish() == "\ufffd"


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: the first end wins, the longest of those."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            return text[: end - max(map(len, matches))], True
    return text, False


ab = st.text(alphabet="abc", max_size=24)
stop_lists = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4)


@given(ab, stop_lists, st.lists(st.integers(0, 1000)))
def test_any_cut_delivers_what_the_whole_would(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    delivered = ""
    for piece in cut(text.encode(), cuts):
        delivered += matcher.push(piece.decode())
        if matcher.stopped:
            break
    else:
        delivered += matcher.finish()
    assert (delivered, matcher.stopped) == reference(text, stops)


@given(ab, stop_lists)
def test_no_more_is_held_than_may_still_become_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    delivered = ""
    for end, char in enumerate(text, start=1):
        delivered += matcher.push(char)
        if matcher.stopped:
            return
        held = text[len(delivered) : end]
        assert not held or any(stop.startswith(held) for stop in stops)
        for start in range(len(delivered)):
            assert not any(stop.startswith(text[start:end]) for stop in stops)


def test_a_stop_string_across_tokens_ends_the_answer_before_it() -> None:
    with running(MemoryBackend(scripts={b"Q": b"one STOP two"})) as engine:
        stream = engine.generate("Q", max_tokens=40, stop=("STOP", "never"))
        done = stream.done()
    assert stream.text == "one "
    assert done.finish_reason is FinishReason.STOP
    assert all(event.text != "S" for event in stream.events[:-1])  # type: ignore[union-attr]


def test_a_stop_string_that_does_not_complete_is_delivered() -> None:
    with running(MemoryBackend(scripts={b"Q": b"one STO"})) as engine:
        stream = engine.generate("Q", max_tokens=40, stop=("STOP",))
        assert stream.done().finish_reason is FinishReason.END
    assert stream.text == "one STO"


def test_a_stop_string_completed_by_the_last_token_allowed_counts_as_stop() -> None:
    with running(MemoryBackend(scripts={b"Q": b"ab!more"})) as engine:
        stream = engine.generate("Q", max_tokens=3, stop=("!",))
        assert stream.done().finish_reason is FinishReason.STOP
    assert stream.text == "ab"


def test_characters_of_several_tokens_arrive_whole() -> None:
    answer = "naïve 😀 日本"
    with running(MemoryBackend(scripts={b"Q": answer.encode()})) as engine:
        stream = engine.generate("Q", max_tokens=60)
        stream.done()
    assert stream.text == answer
    # One event a character, though most took several tokens.
    assert len(stream.events) == len(answer) + 1


def test_log_probabilities_leave_with_their_characters_and_not_before() -> None:
    answer = Answer(("XY",))
    tokens = [TokenLogprob(bytes([byte]), -1.0) for byte in "é!".encode()]
    assert answer.push(b"\xc3", tokens[0]) == ("", ())
    assert answer.push(b"\xa9", tokens[1]) == ("é", (tokens[0], tokens[1]))
    assert answer.push(b"X", tokens[2]) == ("", ())
    assert answer.push(b"a", None) == ("Xa", (tokens[2],))


def test_log_probabilities_of_a_stop_string_are_never_told() -> None:
    with running(MemoryBackend(scripts={b"Q": b"ok<<END>>"})) as engine:
        stream = engine.generate("Q", max_tokens=40, stop=("<<END>>",), logprobs=True)
        stream.done()
    assert [one.token for one in stream.logprobs] == [b"o", b"k"]


def test_log_probabilities_of_an_unfinished_character_are_told_with_its_replacement() -> None:
    with running(MemoryBackend(scripts={b"Q": b"a\xe2\x82"})) as engine:
        stream = engine.generate("Q", max_tokens=3, logprobs=True, top_logprobs=2)
        stream.done()
    assert stream.text == "a\ufffd"
    assert [one.token for one in stream.logprobs] == [b"a", b"\xe2", b"\x82"]
    assert all(len(one.alternatives) == 2 for one in stream.logprobs)
