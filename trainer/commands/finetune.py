"""`casemate finetune`: train a model further that lies in a directory."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.running import Request, execute, run_options
from trainer.recipe.describe import toml_value


@click.command("finetune")
@run_options
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Hugging Face directory to start from; the same as model.source=DIRECTORY.",
)
@click.option(
    "--private",
    is_flag=True,
    help="Finetune with differential privacy; the same as privacy.enabled=true.",
)
def command(
    *,
    words: tuple[str, ...],
    output: Path | None,
    ranks: int,
    print_recipe: bool,
    estimate: bool,
    as_json: bool,
    model: Path | None,
    private: bool,
) -> None:
    """Finetune a model by RECIPE, a .toml file or the name of a ready recipe.

    The model is any Hugging Face directory on disk with safetensors weights, or a
    checkpoint of `casemate train`. [parts] of the recipe says what is frozen, replaced or
    added. Everything else is as with `casemate train`.

    With --private the run keeps to a plan that is accounted for, charges every update to a
    ledger before it is applied, and writes what may be claimed (privacy.json, privacy.html).
    Look at the plan first: casemate privacy plan.

    \b
    Example:
      casemate finetune sentiment-minilm --model all-MiniLM-L6-v2 \\
          data.train=train.tsv data.validation=dev.tsv
      casemate finetune sentiment-minilm --model all-MiniLM-L6-v2 --private \\
          data.train=train.tsv data.labels=0,1 privacy.epsilon=8 parts.adapter=lora
    """
    # Quoted, so that a directory may have any name.
    overrides = () if model is None else (f"model.source={toml_value(str(model))}",)
    if private:
        overrides = (*overrides, "privacy.enabled=true")
    request = Request("finetune", words, output, ranks, print_recipe, estimate, as_json)
    execute(request, overrides)
