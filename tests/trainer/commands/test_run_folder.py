"""What may be in the folder of a run before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from security.errors import UsageError
from trainer.commands.run_folder import default_folder, examine
from trainer.errors import RecipeError
from trainer.recipe.describe import to_toml
from trainer.recipe.parse import LoadedRecipe, load_recipe


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedRecipe:
    return load_recipe("char-shakespeare-cpu", [f"data.train={tmp_path / 'corpus.txt'}"])


def unfinished(folder: Path, loaded: LoadedRecipe) -> Path:
    (folder / "checkpoints" / "step-00000010").mkdir(parents=True)
    (folder / "recipe.toml").write_text(to_toml(loaded.recipe))
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_that_is_not_there_or_empty_is_new(tmp_path: Path, loaded: LoadedRecipe) -> None:
    (tmp_path / "empty").mkdir()
    assert examine(tmp_path / "nothing", loaded) == "new"
    assert examine(tmp_path / "empty", loaded) == "new"
    assert not (tmp_path / "nothing").exists()


def test_runs_go_to_a_folder_named_after_the_recipe(loaded: LoadedRecipe) -> None:
    assert default_folder(loaded) == Path("runs/char-shakespeare-cpu")


def test_an_unfinished_run_of_the_same_recipe_is_continued(
    tmp_path: Path, loaded: LoadedRecipe
) -> None:
    folder = unfinished(tmp_path / "run", loaded)
    before = tree(folder)
    assert examine(folder, loaded) == "continue"
    assert tree(folder) == before


def test_circumstances_may_change_between_parts_of_a_run(
    tmp_path: Path, loaded: LoadedRecipe
) -> None:
    folder = unfinished(tmp_path / "run", loaded)
    again = load_recipe(
        "char-shakespeare-cpu",
        ["data.train=/elsewhere/corpus.txt", "batch.micro_sequences=6", "run.device=cpu"],
    )
    assert examine(folder, again) == "continue"


def test_a_run_of_another_recipe_is_refused_with_what_differs(
    tmp_path: Path, loaded: LoadedRecipe
) -> None:
    folder = unfinished(tmp_path / "run", loaded)
    other = load_recipe(
        "char-shakespeare-cpu", ["data.train=corpus.txt", "run.steps=770", "run.seed=1"]
    )
    with pytest.raises(RecipeError) as caught:
        examine(folder, other)
    message = str(caught.value)
    assert "another recipe" in message
    assert "run.steps was 2000, is 770" in message
    assert "run.seed was 1337, is 1" in message
    assert "-o" in message


def test_a_ledger_may_be_moved_but_not_renamed(tmp_path: Path) -> None:
    def private(ledger: str) -> LoadedRecipe:
        words = [f"data.train={tmp_path / 'corpus.txt'}", "privacy.enabled=true"]
        return load_recipe("char-shakespeare-cpu", [*words, f"privacy.ledger={ledger}"])

    folder = unfinished(tmp_path / "run", private("/old/tickets.ledger"))
    assert examine(folder, private("/new/tickets.ledger")) == "continue"
    with pytest.raises(RecipeError, match="One that was moved keeps its file name"):
        examine(folder, private("/new/renamed.ledger"))


def test_many_differences_are_cut(tmp_path: Path, loaded: LoadedRecipe) -> None:
    folder = unfinished(tmp_path / "run", loaded)
    with pytest.raises(RecipeError, match=r"and \d+ more"):
        examine(folder, load_recipe("decoder-1b-fsdp", ["data.train=corpus.txt"]))


def test_a_finished_run_is_refused_with_what_to_do(tmp_path: Path, loaded: LoadedRecipe) -> None:
    folder = unfinished(tmp_path / "run", loaded)
    (folder / "final").mkdir()
    (folder / "final" / "training.json").write_text("{}")
    # The checkpoint is there, but nobody has measured it yet.
    assert examine(folder, loaded) == "continue"
    (folder / "summary.json").write_text('{"finished": true}')
    with pytest.raises(UsageError, match=r"is finished.*casemate evaluate .*final"):
        examine(folder, loaded)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, loaded: LoadedRecipe) -> None:
    (tmp_path / "thesis.txt").write_text("not yours")
    with pytest.raises(UsageError, match=r"no run's folder.*thesis\.txt"):
        examine(tmp_path, loaded)
    with pytest.raises(UsageError, match="is a file"):
        examine(tmp_path / "thesis.txt", loaded)


def test_a_run_that_was_stopped_before_its_recipe_was_written_is_new(
    tmp_path: Path, loaded: LoadedRecipe
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / ".recipe.toml.partial").write_text("")
    assert examine(tmp_path, loaded) == "new"


def test_a_run_that_learned_nothing_yet_may_begin_again_with_another_recipe(
    tmp_path: Path, loaded: LoadedRecipe
) -> None:
    folder = unfinished(tmp_path / "run", loaded)
    (folder / "checkpoints" / "step-00000010").rename(
        folder / "checkpoints" / "step-00000010.partial"
    )
    other = load_recipe("char-shakespeare-cpu", ["data.train=corpus.txt", "run.seed=1"])
    assert examine(folder, other) == "new"


def test_a_damaged_recipe_in_the_folder_is_named(tmp_path: Path, loaded: LoadedRecipe) -> None:
    unfinished(tmp_path, loaded)
    (tmp_path / "recipe.toml").write_text("[run\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml is no TOML"):
        examine(tmp_path, loaded)
