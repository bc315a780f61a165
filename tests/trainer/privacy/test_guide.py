"""The guide to private finetuning says what is: keys, commands, options and figures."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from casemate.cli.main import cli
from trainer.commands import privacy
from trainer.privacy.checks import check_recipe, plan_warnings
from trainer.privacy.plan import make_plan
from trainer.recipe.keys import key_types, section_types
from trainer.recipe.parse import parse_recipe
from trainer.recipe.ready import ready_text
from trainer.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "privacy.md").read_text()


CLASSIFIER, DECODER = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)


def guide_recipe(*overrides: str) -> Recipe:
    return parse_recipe(CLASSIFIER, where="guide", folder=ROOT, overrides=overrides)


def commands_in_guide() -> list[list[str]]:
    lines = [line.partition("  #")[0] for line in GUIDE.splitlines() if line.startswith("    ")]
    return [line.split()[1:] for line in lines if line.strip().startswith("casemate ")]


def command_of(words: list[str]) -> click.Command:
    named = cli.get_command(click.Context(cli), words[0])
    if named is None:
        raise LookupError(f"there is no command {words[0]}")
    found: click.Command = named
    for word in words[1:]:
        if not isinstance(found, click.Group):
            break
        found = found.commands[word]
    return found


@pytest.mark.parametrize("words", commands_in_guide(), ids=" ".join)
def test_every_command_in_the_guide_is_valid(words: list[str]) -> None:
    options = {option for each in command_of(words).params for option in each.opts}
    assert {word for word in words if word.startswith("-")} <= options
    for word in words:
        if "=" in word and not word.startswith("-"):
            parse_recipe("", where="guide", folder=ROOT, overrides=[word])


def test_the_guide_has_every_command_of_the_group() -> None:
    named = {words[1] for words in commands_in_guide() if words[0] == "privacy"}
    assert named == set(privacy.command.commands)


def test_every_key_in_the_guide_exists() -> None:
    sections = "|".join(section_types())
    named = set(re.findall(rf"`({sections})\.([a-z_0-9]+)\b", GUIDE))
    files = {("privacy", "json"), ("privacy", "html"), ("data", "json"), ("data", "key")}
    assert len(named) > 20
    assert [f"{s}.{k}" for s, k in named - files if k not in key_types(s)] == []


def test_the_recipe_in_the_guide_is_sound_and_gives_the_figures_beside_it() -> None:
    recipe = guide_recipe()
    # Nothing that the guide itself would have to be warned of.
    plan = make_plan(recipe, 6920)
    assert [*check_recipe(recipe), *plan_warnings(recipe, plan)] == []
    sentence = re.search(
        r"noise\s+multiplier ([\d.]+), noise over batch ([\d.]+), epsilon 3", GUIDE
    )
    assert sentence is not None
    assert plan.noise_multiplier == pytest.approx(float(sentence[1]), abs=0.002)
    assert plan.noise_to_batch_ratio == pytest.approx(float(sentence[2]), abs=5e-5)


def test_the_decoder_in_the_guide_is_the_one_that_ships() -> None:
    assert ready_text("text-private") == DECODER
    recipe = parse_recipe(DECODER, where="guide", folder=ROOT, overrides=["model.source=/public"])
    assert check_recipe(recipe) == []
    assert (recipe.model.family, recipe.objective.kind) == ("decoder", "next-token")


def rows() -> list[list[str]]:
    """The rows of the table of batches."""
    start = GUIDE.index("| records | batch |")
    lines = GUIDE[start:].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace(",", "") for cell in line.split("|")[1:-1]] for line in lines]


# A solved row takes seconds; two of them tell a table that has drifted.
@pytest.mark.parametrize("row", [rows()[2], rows()[-1]], ids=lambda row: "-".join(row[:2]))
def test_the_table_of_batches(row: list[str]) -> None:
    records, batch, updates = (int(cell) for cell in row[:3])
    three = guide_recipe(
        f"batch.sequences={batch}", "batch.micro_sequences=0", "privacy.max_epochs=10"
    )
    plan = make_plan(three, records)
    assert plan.steps == updates
    assert plan.noise_multiplier == pytest.approx(float(row[3]), abs=1e-3)
    assert plan.noise_to_batch_ratio == pytest.approx(float(row[4]), rel=0.05)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / "docs" / "guides" / target).resolve().is_file(), target
