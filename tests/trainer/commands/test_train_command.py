"""`casemate train` and `casemate finetune` as typed, up to where a run starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from security.errors import UsageError
from trainer.errors import DataError, RecipeError
from trainer.recipe.parse import load_recipe, parse_recipe
from trainer.recipe.ready import ready_names, ready_summary
from trainer.recipe.schema import Recipe


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_without_arguments_train_lists_the_ready_recipes() -> None:
    result = typed("train")
    assert result.exit_code == 0
    for name in ready_names():
        assert name in result.stdout
        assert ready_summary(name) in result.stdout


def test_the_list_as_json_and_for_finetuning() -> None:
    recipes = json.loads(typed("train", "--json").stdout)["recipes"]
    assert [each["name"] for each in recipes] == list(ready_names())
    meant = json.loads(typed("finetune", "--json").stdout)["recipes"]
    assert [each["name"] for each in meant] == [
        "sentiment-minilm",
        "sentiment-private",
        "text-private",
    ]
    assert "--model DIRECTORY" in typed("finetune").stdout


def test_print_recipe_shows_the_defaults_and_can_be_fed_back(tmp_path: Path) -> None:
    shown = typed("train", "--print-recipe").stdout
    assert parse_recipe(shown, where="shown", folder=tmp_path) == Recipe()
    words = ("encoder-small", "run.seed=5", f"data.train={tmp_path}")
    shown = typed("train", *words, "--print-recipe").stdout
    loaded = load_recipe(words[0], words[1:])
    assert parse_recipe(shown, where="shown", folder=tmp_path) == loaded.recipe


def test_print_recipe_as_json() -> None:
    shown = json.loads(typed("train", "cnn-classifier", "--print-recipe", "--json").stdout)
    assert shown["model"]["kernel_sizes"] == [3, 4, 5]


def test_model_is_a_short_way_to_say_model_source(tmp_path: Path) -> None:
    odd = tmp_path / 'a "model", [1]'
    words = ("finetune", "sentiment-minilm", "--model", str(odd), "--print-recipe", "--json")
    assert json.loads(typed(*words).stdout)["model"]["source"] == str(odd)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("train", "char-shakespeare-cpu"), DataError, "give data.train=PATH"),
        (("train", "run.steps=3"), UsageError, "name the recipe first: casemate train RECIPE"),
        (("train", "--estimate"), UsageError, "say of which recipe"),
        (("train", "nothing"), RecipeError, "`casemate train` lists the ready recipes"),
        (("train", "char-shakespeare-cpu", "run.stepz=3"), RecipeError, "did you mean run.steps"),
        (("finetune", "sentiment-minilm"), UsageError, "give --model DIRECTORY"),
    ],
)
def test_mistakes_are_known_errors(
    words: tuple[str, ...], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    result = typed(*words)
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)


def test_a_refused_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed("train", "char-shakespeare-cpu", "data.train=missing.txt")
    assert list(tmp_path.iterdir()) == []


def test_ranks_inside_a_launcher_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    result = typed("train", "char-shakespeare-cpu", "data.train=corpus.txt", "--ranks", "2")
    assert isinstance(result.exception, UsageError)
    assert "leave it out here" in str(result.exception)


def test_help_and_listing_load_no_framework() -> None:
    code = (
        "import sys\n"
        "from casemate.cli.main import cli\n"
        "for words in (['train', '--help'], ['train'], ['finetune', '--help'],\n"
        "              ['evaluate', '--help'], ['train', 'encoder-small', '--print-recipe']):\n"
        "    try:\n        cli(words)\n    except SystemExit:\n        pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'tokenizers', 'pyarrow', 'rich'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip().endswith("heavy: []"), result.stdout + result.stderr
