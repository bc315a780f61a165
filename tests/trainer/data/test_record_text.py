"""Records of text: one a row, nothing of another, nothing in two rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl
from trainer.data.assemble import build_data
from trainer.data.batch import IGNORED
from trainer.data.pieces import Frame
from trainer.data.record_table import table_of
from trainer.data.record_text import RecordLayout, RecordText, record_layout, with_objective
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import (
    AugmentationOptions,
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    PrivacyOptions,
    Recipe,
)

FAMILIES = {"next-token": "decoder", "masked": "encoder", "infilling": "seq2seq"}
LINES = [f"{text} {number}" for number in range(12) for text in TEXTS]


def recipe(path: Path | str, kind: str = "next-token", **data: object) -> Recipe:
    """A private recipe over one file."""
    options = {"validation_fraction": 0.0, "sequence_length": 48, **data}
    return Recipe(
        model=ModelOptions(family=FAMILIES[kind]),
        data=DataOptions(train=(str(path),), **options),  # type: ignore[arg-type]
        objective=ObjectiveOptions(kind=kind, softmax="full"),
        privacy=PrivacyOptions(enabled=True),
    )


@pytest.fixture
def lines(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "lines.jsonl", [{"text": line} for line in LINES])


def text_kind(kind: str) -> str:
    return "wordpiece" if kind == "masked" else "character" if kind == "next-token" else "bpe"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_is_a_record(kind: str, lines: str, tmp_path: Path) -> None:
    base = tokenizer(text_kind(kind), FAMILIES[kind])
    data = build_data(recipe(lines, kind), tmp_path / "run", base)
    assert len(data.train) == len(LINES)
    assert data.validation is None
    assert data.tokenizer is base
    # Nothing is packed, and no shards are left behind.
    assert not (tmp_path / "run").exists()
    batch = data.train.collate([data.train.item(0, index) for index in range(8)])
    assert "document_ids" not in batch
    assert batch["input_ids"].shape[0] == 8
    assert batch["input_ids"].shape[1] <= 48
    assert data.train.where(3, 5).endswith("lines.jsonl:6")
    first, again = (data.train.item(1, 4) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_language_model_predicts_the_whole_record(lines: str, tmp_path: Path) -> None:
    base = tokenizer("character", "decoder")
    data = build_data(recipe(lines, sequence_length=200), tmp_path, base)
    special = base.special
    for index in (0, 7):
        item = data.train.item(0, index)
        assert item["input_ids"][0] == special.end
        assert item["labels"][-1] == special.end
        assert base.decode(item["labels"][:-1]) == base.decode(base.encode(LINES[index]))
        assert item["input_ids"][1:].tolist() == item["labels"][:-1].tolist()
    batch = data.train.collate([data.train.item(0, index) for index in range(4)])
    padding = batch["labels"] == IGNORED
    assert padding.any()
    # Padding stands behind the record alone, so that a causal network never sees it.
    assert not (padding[:, :-1] & ~padding[:, 1:]).any()
    assert data.bytes_per_token == pytest.approx(1.0, abs=0.05)


def test_long_records_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "a warm film " * 20}, {"text": "dull"}, {"text": "yes"}]
    path = write_jsonl(tmp_path / "long.jsonl", rows)
    base = tokenizer("character", "decoder")
    heard: list[str] = []
    data = build_data(recipe(path, sequence_length=16), tmp_path, base, heard.append)
    assert len(data.train) == 3
    cut = data.train.item(0, 0)
    assert cut["input_ids"].size == cut["labels"].size == 16
    # The end of what was cut is not the end of the record.
    assert cut["labels"][-1] != base.special.end
    assert data.report is not None
    assert "1 of 3 records are longer" in data.report["warnings"][0]
    assert any(data.report["warnings"][0] in line for line in heard)


def test_a_masked_record_keeps_its_frame_when_cut(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "long.jsonl", [{"text": " ".join(TEXTS)}] * 3)
    base = tokenizer("wordpiece", "encoder")
    data = build_data(recipe(path, "masked", sequence_length=12), tmp_path, base)
    frame = Frame.of(base.raw)
    item = data.train.item(0, 1)
    assert item["input_ids"].size == 12
    assert tuple(item["input_ids"][: len(frame.before)]) == frame.before
    assert tuple(item["input_ids"][-len(frame.after) :]) == frame.after
    assert (item["labels"] != IGNORED).any()
    # Another epoch, another mask.
    other = data.train.item(9, 1)
    assert not np.array_equal(item["labels"], other["labels"])


def test_held_out_records_do_not_depend_on_one_another(tmp_path: Path) -> None:
    base = tokenizer("character", "decoder")

    def trained(texts: list[str]) -> set[str]:
        path = write_jsonl(tmp_path / "records.jsonl", [{"text": text} for text in texts])
        data = build_data(recipe(path, validation_fraction=0.3), tmp_path, base)
        assert data.validation is not None
        assert len(data.train) + len(data.validation) == len(texts)
        rows = [data.train.item(0, index)["labels"] for index in range(len(data.train))]
        return {base.decode(row, skip_special=True) for row in rows}

    everyone, without = trained(LINES), trained(LINES[1:])
    assert everyone - without <= {base.decode(base.encode(LINES[0]))}
    assert without <= everyone


def test_records_without_enough_tokens_are_left_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "short.jsonl", [{"text": "a"}, {"text": "a warm film"}])
    base = tokenizer("bpe", "seq2seq")
    data = build_data(recipe(path, "infilling"), tmp_path, base)
    assert len(data.train) == 1
    assert data.report is not None
    assert "left out" in data.report["warnings"][0]


def test_a_plain_text_is_one_record_and_nothing_of_it_can_be_held_out(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    base = tokenizer("character", "decoder")
    with pytest.raises(DataError, match="one record") as refused:
        build_data(recipe(path, validation_fraction=0.1), tmp_path, base)
    assert "film" not in str(refused.value)
    assert len(build_data(recipe(path), tmp_path, base).train) == 1
    assert len(build_data(recipe(path, format="lines"), tmp_path, base).train) == len(LINES)


def test_a_tokenizer_made_from_the_records_is_refused(lines: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="reveals words"):
        build_data(recipe(lines), tmp_path, None)


def test_a_tokenizer_from_a_file_will_do(lines: str, tmp_path: Path) -> None:
    base = tokenizer("character", "decoder")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    base.save(folder)
    wanted = recipe(lines)
    public = dataclasses.replace(wanted.tokenizer, kind="file", file=str(folder / "tokenizer.json"))
    data = build_data(dataclasses.replace(wanted, tokenizer=public), tmp_path, None)
    assert len(data.train) == len(LINES)


def test_inputs_can_be_noised_and_targets_not(lines: str, tmp_path: Path) -> None:
    base = tokenizer("character", "decoder")
    noisy = dataclasses.replace(recipe(lines), augmentation=AugmentationOptions(token_masking=0.5))
    data = build_data(noisy, tmp_path, base)
    plain = build_data(recipe(lines), tmp_path, base)
    item, clean = data.train.item(0, 0), plain.train.item(0, 0)
    assert (item["input_ids"] != clean["input_ids"]).sum() > 5
    assert item["labels"].tolist() == clean["labels"].tolist()


def test_no_room_beside_special_tokens_is_refused() -> None:
    base = tokenizer("wordpiece", "encoder")
    options = ObjectiveOptions(kind="masked")
    with pytest.raises(RecipeError, match="special tokens"):
        record_layout(base, options, DataOptions(sequence_length=2))


@given(
    rows=st.lists(st.lists(st.integers(5, 60), min_size=1, max_size=30), min_size=1, max_size=6),
    length=st.integers(2, 20),
)
def test_rows_hold_their_record_and_no_other(rows: list[list[int]], length: int) -> None:
    arrays = [np.array(row, dtype=np.int64) for row in rows]
    layout = RecordLayout(Frame((2,), (3,)), 0, length, shifted=True)
    records = RecordText(table_of(arrays, Path("made")), layout)
    batch = records.collate([records.item(0, index) for index in range(len(rows))])
    for row, inputs, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        framed = [2, *row, 3][: length + 1]
        assert inputs[: len(framed) - 1].tolist() == framed[:-1]
        assert labels[: len(framed) - 1].tolist() == framed[1:]
        assert set(inputs[len(framed) - 1 :].tolist()) <= {0}
        assert set(labels[len(framed) - 1 :].tolist()) <= {IGNORED}


def test_objectives_on_made_records() -> None:
    base = tokenizer("wordpiece", "encoder")
    options = ObjectiveOptions(kind="masked")
    layout = record_layout(base, options, DataOptions(sequence_length=16))
    rows = [np.arange(8, 14, dtype=np.int64), np.arange(8, 11, dtype=np.int64)]
    dataset = with_objective(RecordText(table_of(rows, Path("made")), layout), options, base, 1)
    batch = dataset.collate([dataset.item(0, 0), dataset.item(0, 1)])
    assert batch["attention_mask"].sum(1).tolist() == [8, 5]
    assert dataset.where(0, 1) == "made:2"
