"""Frames: whole ones arrive, broken ones are refused before memory is taken."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import FrameError
from runtime.worker.framing import HEADER, FrameBuffer, frame, read_frame, write_frame

LIMIT = 1024
payloads = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=8)


@given(payloads, st.integers(min_value=1, max_value=64))
def test_frames_survive_any_cut_of_the_stream(frames: list[bytes], step: int) -> None:
    stream = b"".join(frame(payload, LIMIT) for payload in frames)
    buffer = FrameBuffer(LIMIT)
    seen = [
        payload
        for start in range(0, len(stream), step)
        for payload in buffer.feed(stream[start : start + step])
    ]
    assert seen == frames
    assert buffer.pending_bytes == 0


@pytest.mark.parametrize("length", [0, LIMIT + 1, 2**32 - 1])
def test_a_bad_length_is_refused_before_its_payload(length: int) -> None:
    with pytest.raises(FrameError):
        list(FrameBuffer(LIMIT).feed(HEADER.pack(length)))


def test_frames_before_a_bad_one_are_delivered() -> None:
    buffer = FrameBuffer(LIMIT)
    frames = buffer.feed(frame(b"good", LIMIT) + HEADER.pack(0))
    assert next(frames) == b"good"
    with pytest.raises(FrameError):
        next(frames)


@pytest.mark.parametrize("payload", [b"", b"x" * (LIMIT + 1)])
def test_a_bad_payload_is_not_sent(payload: bytes) -> None:
    with pytest.raises(FrameError):
        frame(payload, LIMIT)


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_blocking_frames_end_where_the_peer_closes(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    write_frame(writing, b"one", LIMIT)
    os.close(writing)
    assert read_frame(reading, LIMIT) == b"one"
    assert read_frame(reading, LIMIT) is None
    os.close(reading)


@pytest.mark.parametrize("cut", [b"\x00\x00", HEADER.pack(5) + b"abc"])
def test_a_cut_inside_a_frame_is_refused(pipe: tuple[int, int], cut: bytes) -> None:
    reading, writing = pipe
    os.write(writing, cut)
    os.close(writing)
    with pytest.raises(FrameError):
        read_frame(reading, LIMIT)
    os.close(reading)


def test_a_blocking_frame_over_the_limit_is_refused(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, HEADER.pack(LIMIT + 1))
    with pytest.raises(FrameError):
        read_frame(reading, LIMIT)
    os.close(reading)
    os.close(writing)
