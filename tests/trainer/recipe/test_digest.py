"""When two recipes are the same, and what is said when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.recipe.digest import CIRCUMSTANCES, deciding_values, differences, recipe_digest
from trainer.recipe.keys import key_types, section_types
from trainer.recipe.parse import parse_recipe
from trainer.recipe.schema import Recipe


def recipe(*overrides: str) -> Recipe:
    return parse_recipe("", where="here", folder=Path(), overrides=overrides)


def test_the_digest_of_the_defaults_is_stable_and_hexadecimal() -> None:
    assert recipe_digest(recipe()) == recipe_digest(Recipe())
    assert len(bytes.fromhex(recipe_digest(recipe()))) == 32


@pytest.mark.parametrize(
    "override",
    [
        "run.steps=999",
        "run.seed=1",
        "model.layers=5",
        "tokenizer.vocabulary_size=9000",
        "data.train=/a/other.txt",
        "data.sequence_length=128",
        "objective.label_smoothing=0.1",
        "optimizer.learning_rate=0.01",
        "batch.sequences=32",
        "precision.dtype=bfloat16",
        "augmentation.word_dropout=0.1",
        "parts.freeze=features",
        "evaluation.patience=2",
    ],
)
def test_what_decides_the_result_changes_the_digest(override: str) -> None:
    changed = recipe(override)
    assert recipe_digest(changed) != recipe_digest(recipe())
    name = override.partition("=")[0]
    assert any(line.startswith(f"{name} was ") for line in differences(recipe(), changed))


@pytest.mark.parametrize(
    "override",
    [
        "run.device=cpu",
        "run.max_minutes=3",
        "data.cache=/tmp/shards",
        "batch.micro_sequences=4",
        "precision.activation_checkpointing=true",
        "distribution.strategy=fsdp",
        "checkpoint.every_steps=7",
        "evaluation.samples=0",
        "report.html=false",
    ],
)
def test_circumstances_do_not(override: str) -> None:
    assert recipe_digest(recipe(override)) == recipe_digest(recipe())
    assert differences(recipe(), recipe(override)) == []


_LAST = "checkpoint.keep_best=false"


@pytest.mark.parametrize("choice", ["evaluation.patience=2", "checkpoint.keep_best=true"])
@pytest.mark.parametrize("change", ["evaluation.every_steps=7", "evaluation.sequences=5"])
def test_when_validation_may_stop_a_run_or_choose_its_weights_it_decides(
    choice: str, change: str
) -> None:
    assert recipe_digest(recipe(_LAST, choice, change)) != recipe_digest(recipe(_LAST, choice))


def test_validation_that_chooses_nothing_decides_nothing() -> None:
    assert recipe_digest(recipe(_LAST, "evaluation.every_steps=7")) == recipe_digest(recipe(_LAST))


def test_whether_the_best_or_the_last_is_exported_decides() -> None:
    assert recipe_digest(recipe(_LAST)) != recipe_digest(recipe())


def test_passes_decide_where_their_pairs_are_each_others_negatives() -> None:
    pairs = ("model.family=encoder", "objective.kind=contrastive")
    assert recipe_digest(recipe(*pairs)) != recipe_digest(recipe(*pairs, "batch.micro_sequences=4"))


def test_data_may_move_but_not_change_its_name() -> None:
    here, there = recipe("data.train=/a/x.txt"), recipe("data.train=/b/x.txt")
    assert recipe_digest(here) == recipe_digest(there)
    assert recipe_digest(here) != recipe_digest(recipe("data.train=/a/y.txt"))


def test_differences_name_key_and_both_values() -> None:
    lines = differences(recipe("run.steps=200"), recipe("run.steps=300", "run.seed=1"))
    assert lines == ["run.seed was 1337, is 1", "run.steps was 200, is 300"]
    patient = differences(recipe(_LAST), recipe(_LAST, "evaluation.patience=1"))
    assert "evaluation.every_steps was not set, is 250" in patient


def test_every_circumstance_exists() -> None:
    names = {f"{name}.{key}" for name in section_types() for key in key_types(name)}
    assert names | set(section_types()) >= CIRCUMSTANCES


def test_deciding_values_hold_no_place() -> None:
    values = deciding_values(recipe("data.train=/secret/place/x.txt", "model.source=/m/minilm"))
    assert values["data.train"] == ["x.txt"]
    assert values["model.source"] == "minilm"
