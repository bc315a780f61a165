"""Recipes from files and words: what is read, and how every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import RecipeError
from trainer.recipe.keys import PATH_KEYS, key_types
from trainer.recipe.parse import MAX_RECIPE_BYTES, load_recipe, parse_recipe
from trainer.recipe.ready import ready_names
from trainer.recipe.schema import Recipe

FOLDER = Path("/recipes")


def read(text: str = "", *overrides: str) -> Recipe:
    return parse_recipe(text, where="r.toml", folder=FOLDER, overrides=overrides)


def refusal(text: str = "", *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text, *overrides)
    return str(caught.value)


def test_an_empty_recipe_has_the_defaults() -> None:
    assert read() == Recipe()


def test_values_of_every_type_are_read() -> None:
    recipe = read(
        "[run]\nsteps = 1_200\nmax_minutes = 3\n"
        "[model]\nfamily = 'convolution'\nkernel_sizes = [2, 3]\ntie_embeddings = false\n"
        "[objective]\nkind = 'classification'\n[data]\nlabels = ['no', 'yes']\n"
    )
    assert (recipe.run.steps, recipe.run.max_minutes) == (1200, 3.0)
    assert isinstance(recipe.run.max_minutes, float)
    assert recipe.model.kernel_sizes == (2, 3)
    assert recipe.model.tie_embeddings is False
    assert recipe.data.labels == ("no", "yes")


def test_dotted_keys_are_the_same_as_sections() -> None:
    assert read("run.steps = 500\nrun.seed = 2\n") == read("[run]\nsteps = 500\nseed = 2\n")


def test_overrides_win_and_need_no_quotes() -> None:
    recipe = read(
        "[run]\nsteps = 500\n",
        "run.steps=600",
        "run.device=cpu",
        "optimizer.learning_rate=3e-4",
        "precision.compile=true",
        "objective.cutoffs=2000,10000",
        'data.labels=["a,b", "c"]',
        'data.text_field="a text"',
    )
    assert recipe.run.steps == 600
    assert recipe.run.device == "cpu"
    assert recipe.optimizer.learning_rate == 3e-4
    assert recipe.precision.compile is True
    assert recipe.objective.cutoffs == (2000, 10000)
    assert recipe.data.labels == ("a,b", "c")
    assert recipe.data.text_field == "a text"


def test_the_last_of_two_overrides_wins_and_empty_is_the_empty_list() -> None:
    assert read("", "run.steps=200", "run.steps=300").run.steps == 300
    assert read("[data]\ntrain = ['a']\n", "data.train=").data.train == ()


def test_paths_of_a_file_are_relative_to_it_and_those_of_words_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes" / "mine.toml"
    file.write_text("[data]\ntrain = ['corpus', '/absolute']\ncache = 'shards'\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(Path("recipes/mine.toml"), ["data.validation=held.txt,~/more"])
    assert loaded.name == "mine"
    assert loaded.recipe.data.train == (str(tmp_path / "recipes" / "corpus"), "/absolute")
    assert loaded.recipe.data.cache == str(tmp_path / "recipes" / "shards")
    assert loaded.recipe.data.validation == (
        str(tmp_path / "held.txt"),
        str(Path.home() / "more"),
    )


def test_an_empty_path_stays_empty() -> None:
    recipe = read("[model]\nsource = ''\n", "data.cache=")
    assert (recipe.model.source, recipe.data.cache) == ("", "")


def test_every_path_key_exists() -> None:
    for name in PATH_KEYS:
        section, _, key = name.partition(".")
        assert key in key_types(section)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\n\nstepz = 3\n", ["r.toml, line 3", "no run.stepz", "did you mean run.steps?"]),
        ("[optimiser]\n", ["line 1", "no section 'optimiser'", "did you mean optimizer?"]),
        ("[run]\nlearning_rate = 1\n", ["did you mean optimizer.learning_rate?"]),
        ("steps = 3\n", ["line 1", "did you mean run.steps?"]),
        ("run = 3\n", ["run is a section; write [run]"]),
        ("[[run]]\nsteps = 3\n", ["run is a section; write [run]"]),
        ("[run]\nsteps = '3'\n", ["line 2", "run.steps is '3'", "a whole number such as 100"]),
        ("[run]\nsteps = 3.0\n", ["run.steps is 3.0", "a whole number such as 100"]),
        ("[run]\nsteps = true\n", ["run.steps is True", "a whole number"]),
        ("[optimizer]\nbeta1 = '0.9'\n", ["a number such as 0.1 or 3e-4"]),
        ("[precision]\ncompile = 1\n", ["true or false"]),
        ("[data]\ntrain = ['a', 3]\n", ["line 2", 'a list of texts such as ["one", "two"]']),
        ("[model]\nkernel_sizes = [3, '4']\n", ["a list of whole numbers such as [3, 4, 5]"]),
        ("[run]\nseed = 1\nsteps = 0\n", ["line 3", "run.steps is 0", "smallest", "1"]),
        ("[model]\nfamily = 'decode'\n", ["model.family is 'decode'", "decoder"]),
        ("[model]\nfamily = 'encoder'\n", ["'encoder' cannot learn 'next-token'", "masked"]),
        ("[run]\nsteps = 10\n", ["warmup_steps is 100, more than run.steps (10)"]),
        ("[run\nsteps = 10\n", ["r.toml is no TOML", "line 1"]),
        ("[optimizer]\nbeta1 = nan\n", ["optimizer.beta1 is not a number"]),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_place(text: str, words: list[str]) -> None:
    message = refusal(text)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps=3", ["override 'steps'", "did you mean run.steps?"]),
        ("every_steps=3", ["checkpoint.every_steps or evaluation.every_steps"]),
        ("run.step=3", ["override 'run.step'", "did you mean run.steps?"]),
        ("modle.depth=3", ["did you mean model.depth?"]),
        ("run=3", ["run is a section; it has steps"]),
        ("run.steps", ["write section.key=value"]),
        ("run.steps=many", ["run.steps is 'many'", "a whole number such as 100"]),
        ("run.steps=1\nseed=4", ["a whole number"]),
        ("run.steps=0", ["override 'run.steps'", "the smallest allowed value is 1"]),
        ("objective.cutoffs=a,b", ["a list of whole numbers"]),
        ("run.device=\udc80", ["not UTF-8"]),
    ],
)
def test_a_mistake_in_an_override_is_named(override: str, words: list[str]) -> None:
    message = refusal("", override)
    for word in words:
        assert word in message


def test_a_wrong_value_is_shown_only_in_part() -> None:
    message = refusal(f"[run]\nsteps = '{'x' * 5000}'\n")
    assert len(message) < 300


def test_ready_recipes_are_found_by_name_and_misspellings_are_answered() -> None:
    assert load_recipe("char-shakespeare-cpu").name == "char-shakespeare-cpu"
    with pytest.raises(RecipeError, match="did you mean 'char-shakespeare-cpu'"):
        load_recipe("char-shakspeare")
    with pytest.raises(RecipeError, match=r"there is no recipe file \./nothing\.toml"):
        load_recipe("./nothing.toml")


def test_a_path_to_a_file_named_like_a_ready_recipe_is_the_file(tmp_path: Path) -> None:
    name = ready_names()[0]
    (tmp_path / name).write_text("[run]\nsteps = 777\n")
    assert load_recipe(tmp_path / name).recipe.run.steps == 777


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[run]\n# \xff\n")
    with pytest.raises(RecipeError, match="line 2 is not UTF-8"):
        load_recipe(binary)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_RECIPE_BYTES + 1))
    with pytest.raises(RecipeError, match="larger than"):
        load_recipe(large)
