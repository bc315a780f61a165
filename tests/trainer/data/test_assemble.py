from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl, write_tsv
from trainer.data.assemble import build_data, evaluation_data
from trainer.data.batch import IGNORED
from trainer.data.loader import Loader, Sweep
from trainer.errors import DataError, RecipeError
from trainer.recipe.parse import load_recipe
from trainer.recipe.schema import (
    AugmentationOptions,
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    Recipe,
    TokenizerOptions,
)


def text_recipe(
    tmp_path: Path, kind: str, family: str, noise: AugmentationOptions | None = None
) -> Recipe:
    path = tmp_path / "corpus.txt"
    if not path.exists():
        path.write_text("\n".join(TEXTS * 30), encoding="utf-8")
    return Recipe(
        model=ModelOptions(family=family),
        tokenizer=TokenizerOptions(kind="character"),
        data=DataOptions(train=(str(path),), sequence_length=32),
        objective=ObjectiveOptions(kind=kind),
        augmentation=noise or AugmentationOptions(),
    )


def test_a_language_model_gets_windows_and_bytes_per_token(tmp_path: Path) -> None:
    data = build_data(text_recipe(tmp_path, "next-token", "decoder"), tmp_path / "run", None)
    assert data.validation is not None
    assert data.bytes_per_token == pytest.approx(1.0, abs=0.01)
    assert data.labels == ()
    item = data.train.item(0, 0)
    assert item["input_ids"].tolist()[1:] == item["labels"].tolist()[:-1]
    assert [source["role"] for source in data.sources] == ["train"]
    assert (tmp_path / "run" / "shards").is_dir()


def test_noise_on_running_text_is_for_training_inputs_only(tmp_path: Path) -> None:
    noise = AugmentationOptions(token_masking=0.5)
    wanted = text_recipe(tmp_path, "next-token", "decoder", noise)
    data = build_data(wanted, tmp_path / "run", None)
    unknown = data.tokenizer.special.unknown
    assert data.validation is not None
    assert (data.train.item(0, 0)["input_ids"] == unknown).any()
    assert not (data.train.item(0, 0)["labels"] == unknown).any()
    assert not (data.validation.item(0, 0)["input_ids"] == unknown).any()


def test_masked_text_masks_and_has_no_bits_per_byte(tmp_path: Path) -> None:
    data = build_data(text_recipe(tmp_path, "masked", "encoder"), tmp_path / "run", None)
    assert data.bytes_per_token is None
    assert data.validation is not None
    labels = data.train.item(0, 0)["labels"]
    assert 0 < (labels != IGNORED).sum() < labels.size
    assert np.array_equal(
        data.validation.item(0, 0)["labels"], data.validation.item(0, 0)["labels"]
    )


def test_infilled_text_has_sentinels_on_both_sides(tmp_path: Path) -> None:
    data = build_data(text_recipe(tmp_path, "infilling", "seq2seq"), tmp_path / "run", None)
    first = data.tokenizer.special.sentinels[0]
    item = data.train.item(0, 0)
    assert (item["input_ids"] == first).sum() == (item["labels"] == first).sum() == 1


@pytest.mark.parametrize(("kind", "family"), [("masked", "encoder"), ("infilling", "seq2seq")])
def test_objectives_that_are_noise_take_no_other(tmp_path: Path, kind: str, family: str) -> None:
    wanted = text_recipe(tmp_path, kind, family, AugmentationOptions(word_dropout=0.1))
    with pytest.raises(RecipeError, match=r"augmentation\.word_dropout does not go with"):
        build_data(wanted, tmp_path / "run", None)


def test_running_text_refuses_deletion_before_any_work(tmp_path: Path) -> None:
    wanted = text_recipe(tmp_path, "next-token", "decoder", AugmentationOptions(token_deletion=0.1))
    with pytest.raises(RecipeError, match=r"augmentation\.token_deletion moves tokens"):
        build_data(wanted, tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


def test_word_embeddings_are_not_built_here(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"trainer\.embeddings"):
        build_data(
            text_recipe(tmp_path, "negative-sampling", "word-embeddings"), tmp_path / "run", None
        )


def classified(tmp_path: Path, count: int) -> str:
    words = " ".join(TEXTS).split()
    rows = [
        (" ".join(words[(n * 7 + k) % len(words)] for k in range(2 + n % 9)), str(n % 2))
        for n in range(count)
    ]
    return write_tsv(tmp_path / "train.tsv", rows)


def test_every_labelled_example_reaches_the_loader_with_its_label(tmp_path: Path) -> None:
    path = classified(tmp_path, 48)
    wanted = Recipe(
        model=ModelOptions(family="convolution"),
        tokenizer=TokenizerOptions(kind="word", vocabulary_size=40, minimum_count=1),
        data=DataOptions(
            train=(path,), columns=("text", "label"), validation_fraction=0, sequence_length=16
        ),
        objective=ObjectiveOptions(kind="classification"),
    )
    data = build_data(wanted, tmp_path / "run", None)
    lines = [line.split("\t") for line in Path(path).read_text().splitlines()]
    seen: list[int] = []
    with Loader(data.train, sequences=16, micro_sequences=4, seed=3) as loader:
        for step in range(3):
            for micro in loader.step(step):
                batch = micro.batch
                for (_, index), ids, mask, label in zip(
                    micro.items,
                    batch["input_ids"],
                    batch["attention_mask"],
                    batch["labels"],
                    strict=True,
                ):
                    text, name = lines[index]
                    expected = data.tokenizer.encode(text, special=True).tolist()
                    assert ids[mask.bool()].tolist() == expected
                    assert data.labels[int(label)] == name
                    seen.append(index)
    assert sorted(seen) == list(range(48))


def test_evaluation_of_a_classifier_uses_the_models_labels(tmp_path: Path) -> None:
    path = classified(tmp_path, 10)
    options = DataOptions(columns=("text", "label"), sequence_length=16)
    data = evaluation_data(
        [path],
        objective=ObjectiveOptions(kind="classification"),
        data=options,
        tokenizer=tokenizer(),
        labels=("1", "0"),
        folder=tmp_path / "scratch",
    )
    found = [
        int(label) for micro in Sweep(data, micro_sequences=10) for label in micro.batch["labels"]
    ]
    assert sorted(found) == [0] * 5 + [1] * 5
    assert int(data.item(0, 0)["labels"]) == 1
    with pytest.raises(DataError, match=":2: the label is none of the 1 known ones"):
        evaluation_data(
            [path],
            objective=ObjectiveOptions(kind="classification"),
            data=options,
            tokenizer=tokenizer(),
            labels=("0",),
            folder=tmp_path / "scratch",
        )


@pytest.mark.parametrize("kind", ["next-token", "masked", "infilling"])
def test_evaluation_of_text_goes_over_all_of_it_and_always_the_same(
    tmp_path: Path, kind: str
) -> None:
    path = write_jsonl(tmp_path / "text.jsonl", [{"text": text} for text in TEXTS * 10])
    tokens = tokenizer("character", "seq2seq" if kind == "infilling" else "encoder")

    def build() -> list[list[int]]:
        data = evaluation_data(
            [path],
            objective=ObjectiveOptions(kind=kind),
            data=DataOptions(sequence_length=32),
            tokenizer=tokens,
            labels=(),
            folder=tmp_path / "scratch",
        )
        return [data.item(0, index)["labels"].tolist() for index in range(len(data))]

    first = build()
    assert first == build()
    characters = sum(len(text) for text in TEXTS) * 10
    assert len(first) >= characters // 32 - 1


def test_word_embeddings_are_not_evaluated_here(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not evaluated on batches"):
        evaluation_data(
            ["x"],
            objective=ObjectiveOptions(kind="negative-sampling"),
            data=DataOptions(),
            tokenizer=tokenizer(),
            labels=(),
            folder=tmp_path,
        )


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (("tokenizer.kind=character",), True),
        (("tokenizer.kind=bpe", "tokenizer.vocabulary_size=300"), True),
        (
            ("tokenizer.kind=word", "tokenizer.vocabulary_size=16", "tokenizer.minimum_count=1"),
            False,
        ),
        (("tokenizer.kind=wordpiece", "tokenizer.vocabulary_size=32"), False),
    ],
)
def test_bits_per_byte_are_told_only_where_tokens_hold_the_text(
    tmp_path: Path, words: tuple[str, ...], known: bool
) -> None:
    (tmp_path / "a.txt").write_text(
        "the cat and the dog and a cow or one hen for you to see it all day long\n" * 40
    )
    (tmp_path / "v.txt").write_text("the cat and the dog and the hen\n" * 20)
    recipe = load_recipe(
        "char-shakespeare-cpu",
        [
            f"data.train={tmp_path / 'a.txt'}",
            f"data.validation={tmp_path / 'v.txt'}",
            "data.sequence_length=8",
            *words,
        ],
    ).recipe
    bundle = build_data(recipe, tmp_path / "run", None)
    assert (bundle.bytes_per_token is not None) is known


def test_unknown_characters_leave_bits_per_byte_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain words and more plain words\n" * 40)
    (tmp_path / "v.txt").write_text("plain w\u00f6rds\n" * 20)
    recipe = load_recipe(
        "char-shakespeare-cpu",
        [
            f"data.train={tmp_path / 'a.txt'}",
            f"data.validation={tmp_path / 'v.txt'}",
            "data.sequence_length=8",
        ],
    ).recipe
    assert build_data(recipe, tmp_path / "run", None).bytes_per_token is None
