"""What a recipe would need, before there is any data."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from casemate.cli.main import cli
from trainer.commands.estimate import estimate
from trainer.recipe.parse import load_recipe
from trainer.recipe.ready import ready_names


def test_the_124m_decoder_is_one() -> None:
    found = estimate(load_recipe("decoder-124m-h100").recipe)
    assert 123e6 < found["parameters"] < 126e6
    assert found["weights_bytes"] >= 4 * found["parameters"]
    assert found["tokens_per_step"] == 524_288
    assert found["suggestion"]["tokens"] == 20 * found["parameters"]


def test_shards_make_a_rank_smaller() -> None:
    recipe = load_recipe("decoder-1b-fsdp").recipe
    assert 1.0e9 < estimate(recipe)["parameters"] < 1.2e9
    assert estimate(recipe, 8)["optimizer_bytes"] * 7 < estimate(recipe)["optimizer_bytes"]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("char-shakespeare-cpu", 0.5e6, 1e6),
        ("encoder-small", 20e6, 25e6),
        ("seq2seq-small", 55e6, 65e6),
        ("word-embeddings", 20e6, 20e6),
    ],
)
def test_sizes_are_those_that_the_recipes_claim(name: str, low: float, high: float) -> None:
    assert low <= estimate(load_recipe(name).recipe)["parameters"] <= high


def test_what_does_not_fit_says_so() -> None:
    recipe = load_recipe(
        "char-shakespeare-cpu", ["batch.sequences=10000000", "run.device=cpu"]
    ).recipe
    assert estimate(recipe)["fits"] is False


@pytest.mark.parametrize("name", [n for n in ready_names() if not n.startswith("sentiment-")])
def test_every_recipe_that_needs_no_model_can_be_estimated(name: str) -> None:
    shown = CliRunner().invoke(cli, ["train", name, "--estimate"])
    assert shown.exit_code == 0, shown.output
    assert "in all" in shown.stdout


def test_as_json() -> None:
    shown = CliRunner().invoke(cli, ["train", "cnn-classifier", "--estimate", "--json"])
    found = json.loads(shown.stdout)
    parts = ("weights", "gradients", "optimizer", "activations")
    assert found["total_bytes"] == sum(found[f"{part}_bytes"] for part in parts)
    assert found["ranks"] == 1
