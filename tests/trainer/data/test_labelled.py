from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl, write_tsv
from trainer.data import tokenizing
from trainer.data.augmentation import Augmenter
from trainer.data.batch import IGNORED, HasLengths
from trainer.data.files import find_files
from trainer.data.labelled import LabelledExamples
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizing import load_labelled
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import AugmentationOptions, DataOptions

ENCODER = tokenizer()
NOISE = AugmentationOptions(
    token_masking=0.2,
    token_deletion=0.2,
    word_dropout=0.2,
    span_infilling=0.2,
    sentence_shuffling=0.5,
)


def load(
    tmp_path: Path,
    task: str,
    rows: list[dict[str, Any]],
    *,
    labels: tuple[str, ...] = (),
    options: DataOptions | None = None,
    noise: AugmentationOptions | None = None,
    seed: int = 0,
    tokens: Tokenizer = ENCODER,
) -> LabelledExamples:
    path = write_jsonl(tmp_path / "examples.jsonl", rows)
    augmenter = None if noise is None else Augmenter.from_options(noise, tokens.special)
    return load_labelled(
        find_files([path]),
        task,
        options or DataOptions(pair_field="pair" if "pair" in rows[0] else ""),
        tokens,
        labels,
        augmenter=augmenter,
        seed=seed,
    )


def classified(count: int = 8) -> list[dict[str, Any]]:
    return [{"text": TEXTS[n % 4], "label": "good" if n % 3 else "bad"} for n in range(count)]


def test_a_classified_text_is_framed_and_keeps_its_label(tmp_path: Path) -> None:
    rows = classified()
    examples = load(tmp_path, "classification", rows, labels=("bad", "good"))
    assert len(examples) == 8
    assert examples.label_counts() == {"bad": 3, "good": 5}
    for index, row in enumerate(rows):
        item = examples.item(3, index)
        assert item["input_ids"].tolist() == ENCODER.encode(row["text"], special=True).tolist()
        assert examples.labels[int(item["labels"])] == row["label"]
        assert examples.where(0, index) == f"{tmp_path / 'examples.jsonl'}:{index + 1}"


def test_rows_of_a_batch_stay_with_their_labels(tmp_path: Path) -> None:
    examples = load(tmp_path, "classification", classified(), labels=("bad", "good"))
    order = [6, 1, 4]
    items = [examples.item(0, index) for index in order]
    batch = examples.collate(items)
    assert batch["labels"].tolist() == [int(item["labels"]) for item in items]
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    for row, mask, item in zip(batch["input_ids"], batch["attention_mask"], items, strict=True):
        assert row[mask.bool()].tolist() == item["input_ids"].tolist()
        assert (row[~mask.bool()] == ENCODER.special.pad).all()
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_two_texts_of_a_class_share_a_row_and_the_longer_is_cut(tmp_path: Path) -> None:
    rows = [
        {"text": "a warm film", "pair": "dull, flat", "label": "x"},
        {"text": " ".join(TEXTS), "pair": "flat", "label": "x"},
        {"text": " ".join(TEXTS), "pair": " ".join(TEXTS), "label": "x"},
    ]
    options = DataOptions(pair_field="pair", sequence_length=24)
    examples = load(tmp_path, "classification", rows, labels=("x",), options=options)
    first = ENCODER.encode(rows[0]["text"], rows[0]["pair"], special=True)
    assert examples.item(0, 0)["input_ids"].tolist() == first.tolist()
    for index in (1, 2):
        ids = examples.item(0, index)["input_ids"]
        assert ids.size == 24
        assert (ids == ENCODER.special.separator).sum() == 2
    flat = ENCODER.encode("flat")
    assert examples.item(0, 1)["input_ids"][-1 - flat.size : -1].tolist() == flat.tolist()
    assert examples.table.truncated == 3


def test_texts_are_cut_to_the_sequence_length(tmp_path: Path) -> None:
    options = DataOptions(sequence_length=10)
    examples = load(
        tmp_path, "classification", classified(), labels=("bad", "good"), options=options
    )
    batch = examples.collate([examples.item(0, index) for index in range(8)])
    assert batch["input_ids"].shape[1] == 10
    full = ENCODER.encode(TEXTS[0], special=True)
    assert batch["input_ids"][0].tolist() == [*full[:9].tolist(), int(full[-1])]
    assert examples.table.truncated == 8


def test_a_sequence_length_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.sequence_length is 3, but special tokens"):
        load(
            tmp_path,
            "classification",
            classified(),
            labels=("bad", "good"),
            options=DataOptions(sequence_length=3),
        )


def test_tags_are_where_the_words_begin(tmp_path: Path) -> None:
    rows = [{"text": ["unbelievably", "good", "acting"], "label": ["A", "B", "C"]}]
    examples = load(tmp_path, "tagging", rows, labels=("A", "B", "C"))
    item = examples.item(0, 0)
    pieces = [ENCODER.encode(word) for word in rows[0]["text"]]
    assert max(piece.size for piece in pieces) > 1
    expected = [IGNORED]
    for number, piece in enumerate(pieces):
        expected += [number] + [IGNORED] * (piece.size - 1)
    assert item["labels"].tolist() == [*expected, IGNORED]
    assert item["input_ids"].size == item["labels"].size
    batch = examples.collate([item])
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert examples.label_counts() == {"A": 1, "B": 1, "C": 1}


def test_both_texts_of_a_pair_are_framed(tmp_path: Path) -> None:
    rows = [{"text": TEXTS[0], "pair": TEXTS[2]}, {"text": TEXTS[1], "pair": TEXTS[3]}]
    examples = load(tmp_path, "contrastive", rows)
    batch = examples.collate([examples.item(0, index) for index in (1, 0)])
    for prefix, name in (("", "text"), ("pair_", "pair")):
        for number, row in enumerate((rows[1], rows[0])):
            mask = batch[f"{prefix}attention_mask"][number].bool()
            ids = batch[f"{prefix}input_ids"][number][mask]
            assert ids.tolist() == ENCODER.encode(row[name], special=True).tolist()


def test_targets_end_and_decoder_inputs_are_one_behind(tmp_path: Path) -> None:
    pairs = tokenizer("wordpiece", "seq2seq")
    rows = [{"text": TEXTS[0], "pair": TEXTS[2]}, {"text": TEXTS[1], "pair": "dull"}]
    examples = load(tmp_path, "sequence-to-sequence", rows, tokens=pairs)
    batch = examples.collate([examples.item(0, index) for index in (0, 1)])
    for number, row in enumerate(rows):
        target = pairs.encode(row["pair"], special=True)
        assert target[-1] == pairs.special.end
        labels = batch["labels"][number]
        assert labels[labels != IGNORED].tolist() == target.tolist()
        begun = batch["decoder_input_ids"][number]
        assert begun[: target.size].tolist() == [pairs.special.pad, *target[:-1].tolist()]
        assert (begun >= 0).all()


def test_targets_of_a_vocabulary_without_frame_get_an_end_token(tmp_path: Path) -> None:
    decoder = tokenizer("bpe", "decoder")
    rows = [{"text": TEXTS[0], "pair": TEXTS[2]}]
    options = DataOptions(pair_field="pair", sequence_length=9)
    examples = load(tmp_path, "sequence-to-sequence", rows, tokens=decoder, options=options)
    labels = examples.item(0, 0)["labels"]
    assert labels.size == 9
    assert labels[-1] == decoder.special.end
    assert (labels[:-1] != decoder.special.end).all()


def test_the_noise_of_an_item_is_a_function_of_seed_epoch_and_index(tmp_path: Path) -> None:
    rows = classified(2)
    examples = load(tmp_path, "classification", rows, labels=("bad", "good"), noise=NOISE)
    again = load(tmp_path, "classification", rows, labels=("bad", "good"), noise=NOISE)
    other = load(tmp_path, "classification", rows, labels=("bad", "good"), noise=NOISE, seed=1)

    def ids(source: LabelledExamples, epoch: int) -> list[int]:
        return list(source.item(epoch, 1)["input_ids"])

    epochs = range(20)
    assert [ids(examples, epoch) for epoch in epochs] == [ids(again, epoch) for epoch in epochs]
    assert [ids(examples, epoch) for epoch in epochs] != [ids(other, epoch) for epoch in epochs]
    assert len({tuple(ids(examples, epoch)) for epoch in epochs}) > 15
    special = ENCODER.special
    for epoch in epochs:
        noisy = ids(examples, epoch)
        assert noisy[0] == special.begin
        assert noisy[-1] == special.separator
        assert len(noisy) > 2


@pytest.mark.parametrize("task", ["tagging", "contrastive", "sequence-to-sequence"])
def test_noise_leaves_targets_alone(tmp_path: Path, task: str) -> None:
    rows: list[dict[str, Any]]
    if task == "tagging":
        rows = [{"text": TEXTS[0].split(), "label": ["A", "B", "C"] * 3}]
    else:
        rows = [{"text": TEXTS[0], "pair": TEXTS[2]}]
    labels = ("A", "B", "C") if task == "tagging" else ()
    examples = load(tmp_path, task, rows, labels=labels, noise=NOISE)
    plain = load(tmp_path, task, rows, labels=labels)
    changed = [examples.item(epoch, 0) for epoch in range(10)]
    assert any(
        item["input_ids"].tolist() != plain.item(0, 0)["input_ids"].tolist() for item in changed
    )
    for item in changed:
        if task == "tagging":
            assert item["labels"].size == item["input_ids"].size
        elif task == "contrastive":
            assert item["pair_input_ids"].size > 2
        else:
            assert item["labels"].tolist() == plain.item(0, 0)["labels"].tolist()


def test_the_fingerprint_changes_with_texts_labels_and_order(tmp_path: Path) -> None:
    rows = classified(4)
    swapped = [{**rows[0], "label": "good"}, *rows[1:]]
    changed = [{**rows[0], "text": "dull"}, *rows[1:]]
    variants = [rows, swapped, changed, rows[::-1], rows[:3]]
    prints = {
        load(tmp_path, "classification", variant, labels=("bad", "good")).fingerprint
        for variant in variants
    }
    assert len(prints) == len(variants)
    same = load(tmp_path, "classification", rows, labels=("bad", "good")).fingerprint
    assert same in prints
    renamed = load(tmp_path, "classification", rows, labels=("good", "bad")).fingerprint
    assert renamed not in prints


def test_lengths_tell_the_loader_what_to_put_together(tmp_path: Path) -> None:
    rows = [{"text": TEXTS[0], "pair": TEXTS[2]}]
    examples = load(tmp_path, "contrastive", rows)
    assert isinstance(examples, HasLengths)
    assert examples.length(0) == ENCODER.encode(TEXTS[0]).size + ENCODER.encode(TEXTS[2]).size


def test_an_unknown_label_is_named_by_line(tmp_path: Path) -> None:
    rows = [*classified(3), {"text": TEXTS[0], "label": "undecided"}]
    with pytest.raises(DataError, match=r":4: the label is none of the 2 known ones \(bad, good\)"):
        load(tmp_path, "classification", rows, labels=("bad", "good"))


def test_a_text_that_gives_no_token_is_named_by_line(tmp_path: Path) -> None:
    rows = [*classified(1), {"text": "\x01 \x02", "label": "bad"}]
    with pytest.raises(DataError, match=r":2: the tokenizer makes no token"):
        load(tmp_path, "classification", rows, labels=("bad", "good"))


def test_kept_examples_keep_their_lines(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [(f"dull {n}", str(n % 2)) for n in range(6)])
    keep = np.array([False, True, False, False, True, True])
    options = DataOptions(columns=("text", "label"))
    examples = load_labelled(
        find_files([path]), "classification", options, ENCODER, ("0", "1"), keep=keep
    )
    assert [examples.where(0, index) for index in range(3)] == [f"{path}:{n}" for n in (2, 5, 6)]
    assert examples.label_counts() == {"0": 1, "1": 2}
    with pytest.raises(DataError, match="no examples"):
        load_labelled(
            find_files([path]), "classification", options, ENCODER, ("0", "1"), keep=~keep & keep
        )


def test_more_examples_than_a_chunk_stay_in_order(tmp_path: Path) -> None:
    words = TEXTS[0].split()
    rows = [(words[n % len(words)], str(n % 7)) for n in range(2500)]
    path = write_tsv(tmp_path / "a.tsv", rows)
    told: list[str] = []
    examples = load_labelled(
        find_files([path]),
        "classification",
        DataOptions(columns=("text", "label")),
        ENCODER,
        tuple("0123456"),
        progress=told.append,
    )
    assert told[-1] == "tokenized 2500 examples"
    expected = {word: ENCODER.encode(word, special=True).tolist() for word in words}
    for index in range(0, 2500, 111):
        item = examples.item(0, index)
        assert item["input_ids"].tolist() == expected[rows[index][0]]
        assert int(item["labels"]) == index % 7


def test_long_texts_make_short_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "_CHUNK_CHARACTERS", 2 * len(TEXTS[0]))
    rows = [{"text": TEXTS[0], "label": "x"}] * 5
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    told: list[str] = []
    load_labelled(
        find_files([path]), "classification", DataOptions(), ENCODER, ("x",), progress=told.append
    )
    assert told == [f"tokenized {done} examples" for done in (2, 4, 5)]
