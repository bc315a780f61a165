from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl, write_tsv
from trainer.data.assemble import silent
from trainer.data.files import describe_file
from trainer.data.labelled_bundle import LabelledData, build_labelled
from trainer.data.tokenization import Tokenizer
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import (
    AugmentationOptions,
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    Recipe,
    TokenizerOptions,
)

WORDS = sorted(set(" ".join(TEXTS).replace(",", "").replace(".", "").split()))


def rows(count: int, begin: int = 0) -> list[tuple[str, ...]]:
    return [
        (f"{WORDS[n % len(WORDS)]} {WORDS[n // len(WORDS)]} {WORDS[-1 - n % 7]}", "ab"[n % 2])
        for n in range(begin, begin + count)
    ]


def recipe(
    data: DataOptions,
    *,
    kind: str = "classification",
    family: str = "encoder",
    tokens: TokenizerOptions | None = None,
    noise: AugmentationOptions | None = None,
) -> Recipe:
    return Recipe(
        model=ModelOptions(family=family),
        objective=ObjectiveOptions(kind=kind),
        tokenizer=tokens or TokenizerOptions(kind="wordpiece", vocabulary_size=64, minimum_count=1),
        data=data,
        augmentation=noise or AugmentationOptions(),
    )


def build(
    wanted: Recipe, told: list[str] | None = None, base: Tokenizer | None = None
) -> LabelledData:
    folder = Path(wanted.data.train[0]).parent / "shards"
    return build_labelled(wanted, folder, base, silent if told is None else told.append)


def tsv(tmp_path: Path, name: str, content: Sequence[tuple[str, ...]]) -> str:
    return write_tsv(tmp_path / f"{name}.tsv", content)


COLUMNS = ("text", "label")


def test_a_validation_file_is_taken_as_it_is(tmp_path: Path) -> None:
    train, dev = tsv(tmp_path, "train", rows(40)), tsv(tmp_path, "dev", rows(10, 40))
    data = build(recipe(DataOptions(train=(train,), validation=(dev,), columns=COLUMNS)))
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (40, 10)
    assert data.labels == ("a", "b")
    assert data.sources == [
        describe_file(Path(train), "train"),
        describe_file(Path(dev), "validation"),
    ]
    assert data.report["train"]["labels"] == {"a": 20, "b": 20}
    assert data.report["shared_texts"] == 0
    assert data.report["warnings"] == []
    assert data.report["vocabulary"]["reached"] == data.tokenizer.vocabulary_size


def test_without_one_a_share_is_held_out_and_neither_side_sees_the_other(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(40) + rows(40))
    data = build(recipe(DataOptions(train=(train,), columns=COLUMNS, validation_fraction=0.25)))
    assert data.validation is not None
    assert len(data.train) + len(data.validation) == 80
    assert len(data.validation) == 20
    texts = [
        {tuple(side.item(0, index)["input_ids"].tolist()) for index in range(len(side))}
        for side in (data.train, data.validation)
    ]
    assert not texts[0] & texts[1]
    assert data.report["held_out"] is True
    assert data.report["train"]["repeated"] == 30


def test_a_fraction_of_zero_holds_nothing_out(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(10))
    data = build(recipe(DataOptions(train=(train,), columns=COLUMNS, validation_fraction=0)))
    assert data.validation is None
    assert len(data.train) == 10
    assert data.report["validation"] is None


def test_the_tokenizer_never_sees_held_out_text(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(20))
    dev = tsv(tmp_path, "dev", [("zzz \u00e9\u00e9", "a")])
    data = build(
        recipe(
            DataOptions(train=(train,), validation=(dev,), columns=COLUMNS),
            tokens=TokenizerOptions(kind="character", minimum_count=1),
        )
    )
    assert data.validation is not None
    unknown = data.tokenizer.special.unknown
    assert (data.validation.item(0, 0)["input_ids"] == unknown).sum() == 2


def test_copies_between_train_and_validation_are_counted_and_told(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(40))
    dev = tsv(tmp_path, "dev", rows(3) + rows(7, 40))
    told: list[str] = []
    data = build(recipe(DataOptions(train=(train,), validation=(dev,), columns=COLUMNS)), told)
    assert data.report["shared_texts"] == 3
    warning = "3 of 10 validation texts are in train too: validation figures will be too good"
    assert data.report["warnings"] == [warning]
    assert f"warning: {warning}" in told
    assert not any(row[0] in line for row in rows(50) for line in told)


def test_one_sided_labels_are_told(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", [(text, "a") for text, _ in rows(39)] + [("good fox", "b")])
    data = build(
        recipe(
            DataOptions(
                train=(train,), columns=COLUMNS, labels=("a", "b", "c"), validation_fraction=0
            )
        )
    )
    assert data.labels == ("a", "b", "c")
    assert any("98% of the examples" in warning for warning in data.report["warnings"])
    assert "no training example has the label c" in data.report["warnings"]


def test_a_base_tokenizer_or_a_file_is_used_instead_of_training(tmp_path: Path) -> None:
    base = tokenizer()
    train = tsv(tmp_path, "train", rows(10))
    options = DataOptions(train=(train,), columns=COLUMNS)
    assert build(recipe(options), base=base).tokenizer is base
    base.save(tmp_path)
    from_file = recipe(
        options, tokens=TokenizerOptions(kind="file", file=str(tmp_path / "tokenizer.json"))
    )
    data = build(from_file)
    assert data.tokenizer.digest == base.digest
    assert data.report["vocabulary"] is None
    with pytest.raises(RecipeError, match=r"tokenizer\.file names none"):
        build(recipe(options, tokens=TokenizerOptions(kind="file")))


def test_only_training_inputs_are_noised(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(30))
    noise = AugmentationOptions(token_masking=0.9)
    data = build(recipe(DataOptions(train=(train,), columns=COLUMNS), noise=noise))
    mask = data.tokenizer.special.mask
    assert data.validation is not None
    assert (data.train.item(0, 0)["input_ids"] == mask).any()
    for index in range(len(data.validation)):
        assert not (data.validation.item(0, index)["input_ids"] == mask).any()


def test_a_validation_label_that_train_lacks_is_refused(tmp_path: Path) -> None:
    train, dev = tsv(tmp_path, "train", rows(10)), tsv(tmp_path, "dev", [("good fox", "c")])
    with pytest.raises(DataError, match=r"dev\.tsv:1: the label is none of the 2 known ones"):
        build(recipe(DataOptions(train=(train,), validation=(dev,), columns=COLUMNS)))


def test_one_label_alone_teaches_nothing(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", [(text, "a") for text, _ in rows(10)])
    with pytest.raises(DataError, match="all examples have the same label"):
        build(recipe(DataOptions(train=(train,), columns=COLUMNS)))
    with pytest.raises(RecipeError, match="names a label twice"):
        build(recipe(DataOptions(train=(train,), columns=COLUMNS, labels=("a", "a"))))


def test_tasks_on_pairs_have_no_labels(tmp_path: Path) -> None:
    pairs = [{"text": text, "pair": f"{text} fox"} for text, _ in rows(20)]
    path = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    data = build(
        recipe(DataOptions(train=(path,), pair_field="pair", labels=("a",)), kind="contrastive")
    )
    assert data.labels == ()
    assert data.report["train"]["labels"] == {}
    assert data.validation is not None


def test_a_trained_tokenizer_is_kept_for_the_next_start(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(30))
    wanted = recipe(DataOptions(train=(train,), columns=COLUMNS))
    told: list[str] = []
    first = build(wanted, told)
    assert "training the tokenizer on the training texts" in told
    told.clear()
    again = build(wanted, told)
    assert not any("training the tokenizer" in line for line in told)
    assert again.tokenizer.digest == first.tokenizer.digest
    assert again.report == first.report
    assert again.train.fingerprint == first.train.fingerprint


def test_other_texts_or_options_train_another(tmp_path: Path) -> None:
    train = tsv(tmp_path, "train", rows(30))
    options = DataOptions(train=(train,), columns=COLUMNS)
    smaller = TokenizerOptions(kind="wordpiece", vocabulary_size=60, minimum_count=1)
    build(recipe(options))
    assert build(recipe(options, tokens=smaller)).tokenizer.vocabulary_size == 60
    tsv(tmp_path, "train", rows(30, 10))
    build(recipe(options))
    kept = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert len(kept) == 3
    assert not any("partial" in name for name in kept)
