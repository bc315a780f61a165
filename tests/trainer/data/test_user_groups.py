"""Users and their records: bounded, told apart, and never named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl
from trainer.data.assemble import build_data
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import (
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    PrivacyOptions,
    Recipe,
)

WHO = ["ann", "bob", "ann", "cyd", "ann", "bob"]


def rows(who: list[object]) -> list[dict[str, object]]:
    return [
        {"text": f"{TEXTS[number % 4]} {number}", "label": "ab"[number % 2], "who": name}
        for number, name in enumerate(who)
    ]


def recipe(path: str, kind: str = "classification", most: int = 2, field: str = "who") -> Recipe:
    family = "encoder" if kind == "classification" else "decoder"
    return Recipe(
        model=ModelOptions(family=family),
        data=DataOptions(
            train=(path,), validation_fraction=0.0, sequence_length=64, labels=("a", "b")
        ),
        objective=ObjectiveOptions(kind=kind, softmax="full"),
        privacy=PrivacyOptions(enabled=True, unit="user", user_field=field, contributions=most),
    )


@pytest.mark.parametrize("kind", ["classification", "next-token"])
def test_each_user_has_their_records_and_no_more_than_allowed(kind: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows(list(WHO)))
    wanted = recipe(path, kind)
    base = tokenizer("bpe", "decoder") if kind == "next-token" else tokenizer()
    data = build_data(wanted, tmp_path, base)
    assert data.groups is not None
    # Of ann's three records the first two.
    assert [group.tolist() for group in data.groups] == [[0, 2], [1, 5], [3]]


def test_there_are_no_groups_where_records_are_the_unit(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows(list(WHO)))
    wanted = dataclasses.replace(recipe(path), privacy=PrivacyOptions(enabled=True))
    assert build_data(wanted, tmp_path, tokenizer()).groups is None


def test_numbers_name_users_too(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows([7, "7", 8, 8, 8, 9]))
    data = build_data(recipe(path, most=9), tmp_path, tokenizer())
    assert data.groups is not None
    assert [group.tolist() for group in data.groups] == [[0, 1], [2, 3, 4], [5]]


@pytest.mark.parametrize("odd", ["", "  ", None, True, 1.5, ["ann"]], ids=repr)
def test_a_record_of_nobody_is_refused_by_its_line(odd: object, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows([*WHO[:3], odd, "ann"]))
    with pytest.raises(DataError, match=r"train.jsonl:4: .*'who'") as refused:
        build_data(recipe(path), tmp_path, tokenizer())
    assert "ann" not in str(refused.value)


def test_a_missing_field_is_refused_by_its_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows(list(WHO)))
    with pytest.raises(DataError, match=r"train.jsonl:1"):
        build_data(recipe(path, field="owner"), tmp_path, tokenizer())


def test_a_recipe_that_names_no_field_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows(list(WHO)))
    with pytest.raises(RecipeError, match="user_field"):
        build_data(recipe(path, field=""), tmp_path, tokenizer())


def test_plain_text_does_not_say_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    wanted = recipe(str(path), "next-token")
    lines = dataclasses.replace(wanted.data, format="lines")
    with pytest.raises(DataError, match="whose it is"):
        build_data(dataclasses.replace(wanted, data=lines), tmp_path, tokenizer("bpe", "decoder"))
