"""What is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.commands.preflight import check_ranks, check_recipe
from trainer.errors import DataError, RecipeError
from trainer.recipe.parse import load_recipe


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("some text")
    return path


def test_a_recipe_whose_data_is_there_passes(corpus: Path) -> None:
    check_recipe(load_recipe("char-shakespeare-cpu", [f"data.train={corpus}"]))


def test_no_data_at_all() -> None:
    with pytest.raises(DataError, match=r"nothing to learn from: give data\.train=PATH"):
        check_recipe(load_recipe("char-shakespeare-cpu"))


@pytest.mark.parametrize("key", ["data.train", "data.validation"])
def test_a_missing_path_is_named_with_its_key(corpus: Path, key: str) -> None:
    overrides = [f"data.train={corpus}", f"{key}={corpus.parent / 'nothing'}"]
    with pytest.raises(DataError, match=rf"{key}: there is no file or directory .*nothing"):
        check_recipe(load_recipe("char-shakespeare-cpu", overrides))


def test_a_missing_tokenizer_file(corpus: Path) -> None:
    words = [f"data.train={corpus}", "tokenizer.kind=file"]
    with pytest.raises(RecipeError, match=r"say which with tokenizer\.file=PATH"):
        check_recipe(load_recipe("decoder-124m-h100", words))
    with pytest.raises(RecipeError, match=r"tokenizer\.file: there is no file"):
        check_recipe(load_recipe("decoder-124m-h100", [*words, "tokenizer.file=/no/t.json"]))


def test_a_missing_or_wrong_model(corpus: Path, tmp_path: Path) -> None:
    words = [f"data.train={corpus}"]
    with pytest.raises(RecipeError, match=r"model\.source: there is no directory"):
        check_recipe(load_recipe("sentiment-minilm", [*words, "model.source=/no/model"]))
    with pytest.raises(RecipeError, match=r"has no config\.json"):
        check_recipe(load_recipe("sentiment-minilm", [*words, f"model.source={tmp_path}"]))


def test_a_finetuning_recipe_without_a_model_says_how(corpus: Path) -> None:
    with pytest.raises(RecipeError, match=r"casemate finetune sentiment-minilm --model DIRECTORY"):
        check_recipe(load_recipe("sentiment-minilm", [f"data.train={corpus}"]))


@pytest.mark.parametrize(
    ("overrides", "ranks", "message"),
    [
        (("batch.sequences=9",), 2, "9 batch.sequences an update cannot be shared by 2 ranks"),
        (("batch.sequences=12", "batch.micro_sequences=4"), 2, "3 passes"),
    ],
)
def test_a_batch_that_ranks_cannot_share(
    overrides: tuple[str, ...], ranks: int, message: str
) -> None:
    recipe = load_recipe("char-shakespeare-cpu", overrides).recipe
    check_ranks(recipe, 1)
    check_ranks(recipe, 3)
    with pytest.raises(RecipeError, match=message):
        check_ranks(recipe, ranks)


def test_word_embeddings_run_as_one_process() -> None:
    recipe = load_recipe("word-embeddings").recipe
    check_ranks(recipe, 1)
    with pytest.raises(RecipeError, match="leave out --ranks"):
        check_ranks(recipe, 2)
