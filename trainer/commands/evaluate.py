"""`casemate evaluate`: what a checkpoint is worth, on data or on one text.

Reads only; the checkpoint is any directory that `casemate train` wrote, or a Hugging Face
directory. Files are told from overrides by the = in the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from casemate.cli.output import emit, json_option, progress
from security.errors import UsageError
from trainer.commands.figures import render_neighbours, render_result, render_text
from trainer.commands.options import batch_option, device_option
from trainer.commands.run_folder import FINAL_FOLDER, RECIPE_FILE

if TYPE_CHECKING:
    from trainer.recipe.schema import DataOptions

_CONFIG_FILE = "config.json"
_DEFAULT_TOP = 10


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("words", nargs=-1, metavar="[DATA]... [data.KEY=VALUE]...")
@click.option("--text", help="Probability of this text, per token, and the likeliest next words.")
@click.option(
    "--top-k",
    type=click.IntRange(1, 1000),
    default=_DEFAULT_TOP,
    show_default=True,
    help="With --text: how many next words to show.",
)
@click.option(
    "--limit", type=click.IntRange(0), default=0, help="Only so many sequences or examples; 0: all."
)
@batch_option
@device_option
@json_option
def command(
    *,
    checkpoint: Path,
    words: tuple[str, ...],
    text: str | None,
    top_k: int,
    limit: int,
    batch: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure CHECKPOINT, the final folder of a run or any model directory, on DATA.

    DATA are files or directories as in data.train of a recipe; how to read them comes from
    the recipe that the checkpoint holds, and data.KEY=VALUE changes that.

    \b
    Example:
      casemate evaluate runs/sentiment/final dev.tsv
      casemate evaluate runs/shakespeare/final --text "To be, or not to be" --top-k 5
    """
    folder = model_folder(checkpoint)
    if text is not None:
        if words:
            raise UsageError("give either DATA or --text, not both")
        _on_text(folder, text, top_k, device, as_json)
        return
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    if not paths:
        raise UsageError("give DATA to measure on, or --text")
    for path in paths:
        if not Path(path).exists():
            raise UsageError(f"there is no file or directory {path}")
    data = data_options(folder, [word for word in words if word not in paths])

    from trainer.evaluation.checkpoint import evaluate_checkpoint

    with progress("loading") as relabel:
        result = evaluate_checkpoint(
            folder,
            [Path(path) for path in paths],
            data=data,
            device=device,
            sequences=limit,
            batch=batch,
            progress=lambda done, total: relabel(f"evaluating {done:,} of {total:,}"),
        )
    emit(as_json, {"checkpoint": str(folder), **result.to_dict()}, render_result)


def model_folder(folder: Path) -> Path:
    """Return the folder with the model: of a run's folder, its final checkpoint.

    Raises:
        UsageError: there is no model in it.
    """
    if (folder / _CONFIG_FILE).is_file():
        return folder
    if (folder / FINAL_FOLDER / _CONFIG_FILE).is_file():
        return folder / FINAL_FOLDER
    if (folder / RECIPE_FILE).is_file():
        raise UsageError(
            f"the run in {folder} is not finished; continue it with casemate train, "
            "then evaluate its final folder"
        )
    raise UsageError(f"{folder} has no {_CONFIG_FILE}; a checkpoint is a model directory")


def data_options(folder: Path, overrides: Sequence[str]) -> DataOptions | None:
    """Return how to read the data, or None where the checkpoint decides alone.

    Raises:
        UsageError: an override is not about data.
        RecipeError: a key or a value is wrong.
        CheckpointError: the checkpoint's recipe cannot be read.
    """
    for word in overrides:
        if not word.startswith("data."):
            raise UsageError(f"{word}: only data.KEY=VALUE can be changed here")
    if not overrides:
        return None

    from trainer.evaluation.opening import read_recipe
    from trainer.recipe.describe import all_values
    from trainer.recipe.parse import recipe_of

    own = read_recipe(folder)
    values = {} if own is None else all_values(own)
    return recipe_of(values, where=str(folder), folder=folder, overrides=overrides).data


def _on_text(folder: Path, text: str, top_k: int, device: str, as_json: bool) -> None:
    from trainer.embeddings.vectors import is_word_embeddings, nearest

    if is_word_embeddings(folder):
        found = [{"word": n.word, "similarity": n.similarity} for n in nearest(folder, text, top_k)]
        emit(as_json, {"checkpoint": str(folder), "nearest": found}, render_neighbours)
        return
    from trainer.evaluation.text import score_text

    with progress("loading"):
        score = score_text(folder, text, top_k=top_k, device=device)
    emit(as_json, {"checkpoint": str(folder), **score.to_dict()}, render_text)
