"""The ready recipes: all there, all valid, all explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.recipe.parse import load_recipe, parse_recipe
from trainer.recipe.ready import ready_names, ready_summary, ready_text
from trainer.recipe.schema import Recipe

PROMISED = {
    "char-shakespeare-cpu",
    "cnn-classifier",
    "decoder-124m-h100",
    "decoder-1b-fsdp",
    "encoder-small",
    "lstm-classifier",
    "rnn-adaptive-softmax",
    "sentiment-minilm",
    "sentiment-private",
    "seq2seq-small",
    "text-private",
    "word-embeddings",
}


def test_the_promised_recipes_ship() -> None:
    assert set(ready_names()) == PROMISED


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_ready_recipe_is_valid_and_names_no_place(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert recipe != Recipe()
    assert recipe.data.train == recipe.data.validation == ()
    assert recipe.model.source == recipe.data.cache == recipe.tokenizer.file == ""


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_ready_recipe_says_what_it_is_for_and_how_to_run_it(name: str) -> None:
    assert 30 < len(ready_summary(name)) < 92
    assert name in ready_text(name).partition("\n")[2]
    assert "data.train=" in ready_text(name)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_passes_divide_among_ranks(name: str) -> None:
    batch = load_recipe(name).recipe.batch
    if batch.micro_sequences:
        assert (batch.sequences // batch.micro_sequences) % 2 == 0


def test_a_ready_recipe_copied_to_a_file_is_the_same(tmp_path: Path) -> None:
    for name in ready_names():
        again = parse_recipe(ready_text(name), where=name, folder=tmp_path)
        assert again == load_recipe(name).recipe
