"""Encoders and tensor graphs: bucketing, batching, limits, cancellation, wrong input."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.batching import BatchLimits
from runtime.engine.encoder import (
    MAX_PADDING,
    EncodeDone,
    EncodeItem,
    EncoderEngine,
    EncodeRequest,
    choose_similar,
    load_tokenizer,
    softmax,
)
from runtime.engine.errors import FailureReason, InvalidRequest, LoadError
from runtime.engine.onnx import OnnxSession
from runtime.engine.types import Failure
from tests.support.bundles import DIM, LABELS, encoder_graph
from tests.support.tiny_models import tiny_encoder_dir, tiny_onnx

PATIENCE_SECONDS = 30
MAX_TOKENS = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoder")
    tiny_encoder_dir(root / "tiny")
    encoder_graph(root / "embed.onnx")
    encoder_graph(root / "classify.onnx", labels=LABELS)
    tiny_onnx(root / "tensor.onnx")
    return root


def make_engine(folder: Path, graph: str = "embed", **limits: float) -> EncoderEngine:
    tokenizer = load_tokenizer((folder / "tiny" / "tokenizer.json").read_bytes())
    session = OnnxSession(str(folder / f"{graph}.onnx"), 1)
    return EncoderEngine(session, tokenizer, MAX_TOKENS, BatchLimits(**limits))  # type: ignore[arg-type]


@pytest.fixture
def engine(folder: Path) -> Iterator[EncoderEngine]:
    subject = make_engine(folder)
    subject.start()
    yield subject
    subject.drain()


def run(engine: EncoderEngine, request: EncodeRequest) -> EncodeDone | Failure:
    events: queue.Queue[EncodeDone | Failure] = queue.Queue()
    engine.submit(request, events.put)
    return events.get(timeout=PATIENCE_SECONDS)


def test_vectors_come_back_in_the_order_of_the_inputs(engine: EncoderEngine) -> None:
    texts = ("the cat", "a dog in the house by the river", "king")
    together = run(engine, EncodeRequest(1, texts))
    assert isinstance(together, EncodeDone)
    assert together.values.shape == (3, DIM)
    for index, text in enumerate(texts):
        alone = run(engine, EncodeRequest(2 + index, (text,)))
        assert isinstance(alone, EncodeDone)
        assert alone.values[0] == pytest.approx(together.values[index], abs=1e-5)
        assert alone.tokens[0] == together.tokens[index]


def test_labels_become_probabilities(folder: Path) -> None:
    engine = make_engine(folder, "classify")
    engine.start()
    done = run(engine, EncodeRequest(1, ("good", "bad")))
    engine.drain()
    assert isinstance(done, EncodeDone)
    assert done.values.sum(axis=1) == pytest.approx(1.0)


def test_an_input_over_the_limit_is_refused_by_name(engine: EncoderEngine) -> None:
    failure = run(engine, EncodeRequest(1, ("fine", "cat " * (MAX_TOKENS + 1))))
    assert isinstance(failure, Failure)
    assert failure.field == "inputs[1]"
    assert failure.reason is FailureReason.INVALID_ARGUMENT
    assert "cat" not in failure.detail


def test_the_longest_input_allowed_is_taken_whole(engine: EncoderEngine) -> None:
    # [CLS] and [SEP] take two of the places.
    done = run(engine, EncodeRequest(1, ("cat " * (MAX_TOKENS - 2),)))
    assert isinstance(done, EncodeDone)
    assert done.tokens == (MAX_TOKENS,)


@pytest.mark.parametrize("inputs", [(), ("",), ("fine", "")])
def test_no_text_is_refused(inputs: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest):
        EncodeRequest(1, inputs)


def test_a_passed_deadline_is_not_computed(engine: EncoderEngine) -> None:
    failure = run(engine, EncodeRequest(1, ("the cat",), deadline=time.monotonic() - 1))
    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.DEADLINE


def test_what_waits_can_be_cancelled(folder: Path) -> None:
    """The engine is not started yet, so the requests surely wait."""
    engine = make_engine(folder)
    events: queue.Queue[EncodeDone | Failure] = queue.Queue()
    engine.submit(EncodeRequest(1, ("the cat",)), events.put)
    engine.submit(EncodeRequest(2, ("the dog",)), events.put)
    engine.cancel(1)
    engine.start()
    engine.drain()
    first, second = events.get_nowait(), events.get_nowait()
    assert isinstance(first, Failure)
    assert first.id == 1
    assert first.reason is FailureReason.CANCELLED
    assert isinstance(second, EncodeDone)


def test_too_many_waiting_inputs_are_refused_at_once(folder: Path) -> None:
    engine = make_engine(folder, max_waiting=2)
    failure = run(engine, EncodeRequest(1, ("a", "b", "c")))
    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.CAPACITY


def test_a_request_larger_than_a_batch_is_completed(folder: Path) -> None:
    engine = make_engine(folder, max_batch=4)
    engine.start()
    done = run(engine, EncodeRequest(1, tuple("the cat" for _ in range(11))))
    stats = engine.stats()
    engine.drain()
    assert isinstance(done, EncodeDone)
    assert done.values.shape == (11, DIM)
    assert stats.steps == 3


def test_requests_that_wait_together_are_computed_together(folder: Path) -> None:
    engine = make_engine(folder)
    events: queue.Queue[EncodeDone | Failure] = queue.Queue()
    for number in range(6):
        engine.submit(EncodeRequest(number, ("the cat",)), events.put)
    engine.start()
    engine.drain()
    assert events.qsize() == 6
    assert engine.stats().steps == 1


def item(number: int, length: int) -> EncodeItem:
    return EncodeItem(number, 0, [1] * length, None, 0.0)


@given(
    st.lists(st.integers(min_value=1, max_value=512), min_size=1, max_size=60),
    st.integers(min_value=1, max_value=32),
)
def test_a_batch_has_the_oldest_and_little_padding(lengths: list[int], limit: int) -> None:
    waiting = [item(number, length) for number, length in enumerate(lengths)]
    batch = choose_similar(waiting, limit)
    assert waiting[0] in batch
    assert 1 <= len(batch) <= limit
    assert len({entry.request_id for entry in batch}) == len(batch)
    longest = max(len(entry.ids) for entry in batch)
    filled = sum(len(entry.ids) for entry in batch)
    assert 1 - filled / (longest * len(batch)) <= MAX_PADDING


def test_short_and_long_texts_are_not_mixed() -> None:
    waiting = [item(0, 8), item(1, 512), item(2, 9), item(3, 500)]
    assert sorted(entry.request_id for entry in choose_similar(waiting, 8)) == [0, 2]


def test_softmax_survives_large_logits() -> None:
    values = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32))
    assert values == pytest.approx(np.array([[1.0, 0.0], [0.5, 0.5]]))


def test_a_graph_that_is_no_encoder_is_refused(folder: Path) -> None:
    with pytest.raises(LoadError, match="encoder bundle"):
        make_engine(folder, "tensor")


def test_a_file_that_is_no_graph_is_refused(folder: Path) -> None:
    with pytest.raises(LoadError, match="refused the graph"):
        OnnxSession(str(folder / "tiny" / "tokenizer.json"), 1)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00\xff", b'{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(LoadError):
        load_tokenizer(data)
