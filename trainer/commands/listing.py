"""The table of ready recipes that `casemate train` and `casemate finetune` print."""

from __future__ import annotations

from typing import Any

import click

from casemate.cli.output import table
from trainer.recipe.parse import load_recipe
from trainer.recipe.ready import ready_names, ready_summary
from trainer.recipe.schema import PartsOptions, Recipe


def needs_model(recipe: Recipe) -> bool:
    """Whether a recipe is for finetuning: it changes parts of a model that is there."""
    return recipe.parts != PartsOptions()


def listing(finetuning: bool) -> dict[str, Any]:
    """Return the ready recipes as JSON types; for finetuning only those that are meant for it."""
    recipes = []
    for name in ready_names():
        recipe = load_recipe(name).recipe
        command = "finetune" if needs_model(recipe) else "train"
        if command == "train" and finetuning:
            continue
        recipes.append({"name": name, "command": command, "summary": ready_summary(name)})
    return {"recipes": recipes}


def render_listing(data: dict[str, Any]) -> None:
    """Print the table and what to do next."""
    table(
        ["recipe", "with", "what it is"],
        [[each["name"], each["command"], each["summary"]] for each in data["recipes"]],
    )
    first = data["recipes"][0]
    start = f"casemate {first['command']} {first['name']}"
    model = " --model DIRECTORY" if first["command"] == "finetune" else ""
    click.echo(f"\nRead one: {start} --print-recipe")
    click.echo(f"Run one:  {start}{model} data.train=PATH")
