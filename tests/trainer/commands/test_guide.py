"""The training guide says what is: keys, recipes, commands and options that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from casemate.cli.registry import COMMANDS
from trainer.commands import evaluate, finetune, train
from trainer.commands.run_folder import RUN_ENTRIES
from trainer.recipe.keys import key_types, section_types
from trainer.recipe.parse import load_recipe, parse_recipe
from trainer.recipe.ready import ready_names
from trainer.recipe.schema import FAMILIES, OBJECTIVES, Recipe

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "training.md").read_text()
COMMAND_OBJECTS = {
    "train": train.command,
    "finetune": finetune.command,
    "evaluate": evaluate.command,
}


def commands_in_guide() -> list[list[str]]:
    """Every indented command line of the guide, as words; continued lines are joined."""
    joined = re.sub(r"\\\n\s+", " ", GUIDE)
    lines = [line.partition("  #")[0] for line in joined.splitlines() if line.startswith("    ")]
    found = []
    for line in lines:
        start = re.search(r"casemate(?:\.cli\.main)? (?:train|finetune|evaluate)\b.*", line)
        if start:
            found.append(re.sub(r'"[^"]*"', "TEXT", start[0]).split()[1:])
    return found


def test_the_guide_has_commands_of_each_kind() -> None:
    assert {words[0] for words in commands_in_guide()} == set(COMMAND_OBJECTS)


def test_every_key_named_in_the_guide_exists() -> None:
    sections = "|".join(section_types())
    named = set(re.findall(rf"(?<![\w/.-])({sections})\.([a-z_0-9]+)\b", GUIDE))
    files = {
        ("recipe", "toml"),
        ("report", "html"),
        ("model", "safetensors"),
        ("tokenizer", "json"),
        ("privacy", "md"),
    }
    wrong = [f"{s}.{k}" for s, k in named - files if k not in key_types(s)]
    assert len(named) > 25
    assert wrong == []


def test_every_section_is_named_and_no_other() -> None:
    tables = set(re.findall(r"^\| `\[(\w+)\]` \|", GUIDE, re.MULTILINE))
    assert tables == set(section_types())
    assert set(re.findall(r"`\[(\w+)\]`", GUIDE)) <= set(section_types())


def test_the_keys_of_parts_and_augmentation_are_named_in_full() -> None:
    for section in ("parts", "augmentation"):
        for key in key_types(section):
            assert re.search(rf"`{key}\b", GUIDE), f"{section}.{key}"


def test_every_ready_recipe_is_in_the_guide() -> None:
    for name in ready_names():
        assert f"`{name}`" in GUIDE


def test_every_family_and_objective_is_in_the_guide() -> None:
    table = GUIDE[GUIDE.index("| `model.family` |") :].partition("\n\n")[0]
    for word in (*FAMILIES, *OBJECTIVES):
        assert f"`{word}`" in table
    for row in table.splitlines()[2:]:
        family, objectives = (re.findall(r"`([a-z0-9-]+)`", cell) for cell in row.split("|")[1:3])
        for objective in objectives:
            words = (f"model.family={family[0]}", f"objective.kind={objective}")
            parse_recipe("", where=row, folder=ROOT, overrides=words)


def test_the_recipe_in_the_guide_is_one() -> None:
    text = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(text) == 1
    assert set(tomllib.loads(text[0])) <= set(section_types())
    assert parse_recipe(text[0], where="guide", folder=ROOT) != Recipe()


@pytest.mark.parametrize("words", commands_in_guide(), ids=" ".join)
def test_every_command_in_the_guide_is_valid(words: list[str]) -> None:
    name, *rest = words
    command = COMMAND_OBJECTS[name]
    options = {option for each in command.params for option in each.opts}
    used = {word for word in rest if word.startswith("-")}
    assert used <= options
    for word in rest:
        if "=" in word and not word.startswith("-"):
            parse_recipe("", where="guide", folder=ROOT, overrides=[word])
    if name != "evaluate" and rest and not rest[0].endswith(".toml"):
        load_recipe(rest[0])


def test_every_option_that_the_guide_names_exists() -> None:
    options = {
        option for c in COMMAND_OBJECTS.values() for each in c.params for option in each.opts
    }
    quoted = set(re.findall(r"`(--[a-z-]+)", GUIDE))
    assert quoted <= options


def test_the_folder_of_a_run_is_described_in_full() -> None:
    block = GUIDE[GUIDE.index("    runs/mine/\n") :].partition("\n\n")[0]
    named = set(re.findall(r"^        ([\w.]+)/?\s", block, re.MULTILINE)) | {"tensorboard"}
    assert named <= RUN_ENTRIES


def test_help_texts_name_only_what_exists() -> None:
    for name, command in COMMAND_OBJECTS.items():
        assert COMMANDS[name].module == f"trainer.commands.{name}"
        assert COMMANDS[name].extra == "trainer"
        text = command.get_help(click.Context(command, info_name=name))
        for other in re.findall(r"casemate ([a-z]+) ", text):
            assert other in COMMANDS
        for key in re.findall(r"\b([a-z]+\.[a-z_]+)=", text):
            section, _, last = key.partition(".")
            assert last in key_types(section)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / "docs" / "guides" / target).resolve().is_file(), target
