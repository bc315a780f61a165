"""Windows: every token is a target once, documents are told apart, phases move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.texts import write_set
from trainer.data.batch import DataSet, HasBytes, HasLengths
from trainer.data.shards import ShardSet
from trainer.data.text_dataset import WindowedText, collate_windows
from trainer.errors import DataError

END = 0


def stream(folder: Path, tokens: int) -> ShardSet:
    """Return a set of one document whose tokens count up from 1."""
    return write_set(folder, [range(1, tokens + 1)], vocabulary_size=1000, shard_tokens=7)


def windows(
    shards: ShardSet,
    length: int,
    *,
    seed: int | None = None,
    boundaries: bool = True,
    end: int | None = END,
) -> WindowedText:
    return WindowedText(shards, sequence_length=length, boundaries=boundaries, seed=seed, end=end)


def test_validation_windows_follow_one_another(tmp_path: Path) -> None:
    data: DataSet = windows(stream(tmp_path / "set", 11), 3)

    items = [data.item(0, index) for index in range(len(data))]
    assert [item["input_ids"].tolist() for item in items] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [item["labels"].tolist() for item in items] == [[2, 3, 4], [5, 6, 7], [8, 9, 10]]
    assert data.item(5, 1)["input_ids"].tolist() == [4, 5, 6]


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 80), st.integers(2, 20), st.integers(0, 2**32))
def test_no_target_comes_twice_in_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, length: int, seed: int
) -> None:
    shards = stream(tmp_path_factory.mktemp("windows") / "set", max(tokens, length + 1))
    data = windows(shards, length, seed=seed)

    assert len(data) >= 1
    for epoch in range(4):
        labels = np.concatenate([data.item(epoch, index)["labels"] for index in range(len(data))])
        assert len(set(labels.tolist())) == len(labels) == len(data) * length
        first = labels[0]
        assert labels.tolist() == list(range(first, first + len(labels)))
        # Less than two windows are left out at the ends.
        assert shards.tokens - 1 - len(labels) < 2 * length


def test_epochs_begin_at_phases_of_their_own(tmp_path: Path) -> None:
    data = windows(stream(tmp_path / "set", 500), 50, seed=3)

    begins = [int(data.item(epoch, 0)["input_ids"][0]) for epoch in range(60)]
    assert set(begins) <= set(range(1, 51))
    assert len(set(begins)) > 25
    assert begins == [int(data.item(epoch, 0)["input_ids"][0]) for epoch in range(60)]


def test_documents_in_a_window_are_told_apart(tmp_path: Path) -> None:
    shards = write_set(tmp_path / "set", [[1, 2, END], [3, END], [4, 5, 6, 7, END], [8, END]])
    data = windows(shards, 8)
    item = data.item(0, 0)

    assert item["input_ids"].tolist() == [1, 2, END, 3, END, 4, 5, 6]
    # The end token is asked for the first token of the next document.
    assert item["labels"].tolist() == [2, END, 3, END, 4, 5, 6, 7]
    assert item["document_ids"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    batch = data.collate([item])
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]


def test_without_an_end_token_a_first_token_is_no_target(tmp_path: Path) -> None:
    shards = write_set(tmp_path / "set", [[1, 2], [3], [4, 5, 6, 7]])
    data = windows(shards, 6, end=None)

    assert data.item(0, 0)["labels"].tolist() == [2, -100, -100, 5, 6, 7]


def test_a_window_in_the_middle_of_a_document_begins_at_position_0(tmp_path: Path) -> None:
    data = windows(write_set(tmp_path / "set", [range(1, 7), range(7, 12)]), 4)

    assert data.item(0, 1)["input_ids"].tolist() == [5, 6, 7, 8]
    assert data.item(0, 1)["document_ids"].tolist() == [0, 0, 1, 1]
    assert data.collate([data.item(0, 1)])["position_ids"].tolist() == [[0, 1, 0, 1]]


def test_a_batch_of_single_documents_needs_no_marks(tmp_path: Path) -> None:
    data = windows(write_set(tmp_path / "set", [range(1, 7), range(7, 40)]), 6)
    first, second, third = (data.item(0, index) for index in range(3))

    # The first window ends where the second document begins: it holds the first alone.
    assert set(data.collate([first, second])) == {"input_ids", "labels"}
    assert set(data.collate([third])) == {"input_ids", "labels"}
    crossing = windows(data.shards, 7).item(0, 0)
    assert set(data.collate([crossing])) == {
        "input_ids",
        "labels",
        "document_ids",
        "position_ids",
    }


def test_boundaries_switched_off(tmp_path: Path) -> None:
    data = windows(write_set(tmp_path / "set", [[1, END], [2, END], [3, END]]), 4, boundaries=False)

    assert set(data.item(0, 0)) == {"input_ids", "labels"}
    assert set(data.collate([data.item(0, 0)])) == {"input_ids", "labels"}


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_positions_count_within_documents(lengths: list[int]) -> None:
    document_ids = np.repeat(np.arange(len(lengths)), lengths)
    expected = [position for length in lengths for position in range(length)]

    batch = collate_windows([{"document_ids": document_ids, "input_ids": document_ids}] * 2)
    if len(lengths) > 1:
        assert batch["position_ids"].tolist() == [expected, expected]
    else:
        assert set(batch) == {"input_ids"}


@pytest.mark.parametrize("seed", [None, 4])
def test_corpus_shorter_than_one_window(tmp_path: Path, seed: int | None) -> None:
    shards = stream(tmp_path / "set", 10)

    assert len(windows(shards, 9, seed=seed)) == 1
    with pytest.raises(DataError, match=r"has 10 tokens, fewer than one .*\(10\).* to 9 or less"):
        windows(shards, 10, seed=seed)


def test_documents_shorter_than_a_window_are_packed(tmp_path: Path) -> None:
    data = windows(write_set(tmp_path / "set", [[number, END] for number in range(1, 20)]), 16)

    assert len(data) == 2


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_the_epoch(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError):
        windows(stream(tmp_path / "set", 11), 3).item(0, index)


def test_where_names_tokens_and_no_text(tmp_path: Path) -> None:
    data = windows(stream(tmp_path / "set", 11), 3)

    assert data.where(0, 1) == f"tokens 3 to 6 of the train corpus in {tmp_path / 'set'}"


def test_the_fingerprint_changes_with_whatever_changes_an_item(tmp_path: Path) -> None:
    one, other = stream(tmp_path / "one", 20), stream(tmp_path / "other", 21)
    prints = [
        windows(one, 3).fingerprint,
        windows(other, 3).fingerprint,
        windows(one, 4).fingerprint,
        windows(one, 3, seed=1).fingerprint,
        windows(one, 3, boundaries=False).fingerprint,
        windows(one, 3, end=None).fingerprint,
    ]

    assert len(set(prints)) == len(prints)
    assert windows(one, 3).fingerprint == prints[0]
    assert all(len(bytes.fromhex(digest)) == 32 for digest in prints)


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    data = windows(write_set(tmp_path / "set", [[1, 2, 3, 4]]), 2)

    assert isinstance(data, HasBytes)
    assert not isinstance(data, HasLengths)
    assert data.bytes_per_token == 1
