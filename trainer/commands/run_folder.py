"""What the folder of a run already holds, and whether this run may go into it.

Nothing is ever deleted here or overwritten. Refused: the folder of a finished run, of a
run of another recipe (with what differs), and a folder that holds something else.

Several ranks look at once while the first may already write, so every check holds for a
folder at any moment of its own run: only what no run of this recipe leaves is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from security.errors import UsageError
from trainer.errors import RecipeError
from trainer.recipe.digest import differences
from trainer.recipe.parse import LoadedRecipe, load_recipe

# What a run writes, in the order of its life (docs/guides/training.md lists it too).
RECIPE_FILE = "recipe.toml"
CHECKPOINTS_FOLDER = "checkpoints"
FINAL_FOLDER = "final"
SUMMARY_FILE = "summary.json"
CANARIES_FILE = "canaries.json"
RUN_ENTRIES = frozenset(
    {
        RECIPE_FILE,
        FINAL_FOLDER,
        CHECKPOINTS_FOLDER,
        CANARIES_FILE,
        "data.json",
        "evaluation.json",
        "metrics.jsonl",
        "report.html",
        "privacy-ledger.jsonl",
        "privacy.html",
        "private-plan.json",
        "run.json",
        "run.lock",
        "samples.json",
        "shards",
        SUMMARY_FILE,
        "tensorboard",
        "tokenizer",
    }
)
# So many differences between two recipes are shown; more would hide the point.
_SHOWN_DIFFERENCES = 8


def default_folder(loaded: LoadedRecipe) -> Path:
    """Return where a run of this recipe goes unless told otherwise."""
    return Path("runs") / loaded.name


def examine(folder: Path, loaded: LoadedRecipe) -> Literal["new", "continue"]:
    """Say whether a run of this recipe starts in a folder or continues there.

    Raises:
        UsageError: it holds a finished run, or something that is no run.
        RecipeError: it holds a run of another recipe, or its recipe cannot be read.
    """
    if not folder.exists():
        return "new"
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; a run needs a folder (choose one with -o)")
    names = {entry.name for entry in folder.iterdir()}
    foreign = sorted(name for name in names if not _of_a_run(name))
    if foreign and RECIPE_FILE not in names:
        raise UsageError(
            f"{folder} is no run's folder (it holds {foreign[0]}); "
            "choose an empty or a new one with -o"
        )
    if RECIPE_FILE not in names or not _has_progress(folder):
        # Nothing was learned yet: a recipe that was refused may be put right and run again.
        return "new"
    _refuse_other(folder, loaded)
    if _is_finished(folder):
        raise UsageError(
            f"the run in {folder} is finished. Evaluate it: casemate evaluate "
            f"{folder / FINAL_FOLDER} DATA. To train again, choose another folder with -o"
        )
    return "continue"


def _of_a_run(name: str) -> bool:
    """Whether a run makes an entry of this name, or has it while it writes."""
    return name.startswith(".") or any(name.startswith(own) for own in RUN_ENTRIES)


def _is_finished(folder: Path) -> bool:
    """Whether a run has come to its very end: summary.json is written last.

    A folder with `final` and no summary was cut while the checkpoint was measured; the
    same command measures it and reports.
    """
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("finished") is True


def _has_progress(folder: Path) -> bool:
    """Whether a run has left a checkpoint; one that is half written is none."""
    saved = (folder / CHECKPOINTS_FOLDER).glob("step-*")
    return (folder / FINAL_FOLDER).exists() or any(path.suffix == "" for path in saved)


def _refuse_other(folder: Path, loaded: LoadedRecipe) -> None:
    earlier = load_recipe(folder / RECIPE_FILE)
    changed = differences(earlier.recipe, loaded.recipe)
    if not changed:
        return
    shown = "".join(f"\n  {line}" for line in changed[:_SHOWN_DIFFERENCES])
    if len(changed) > _SHOWN_DIFFERENCES:
        shown += f"\n  and {len(changed) - _SHOWN_DIFFERENCES} more"
    if any(line.startswith("privacy.ledger was") for line in changed):
        shown += (
            "\nA run goes on with the ledger that it began with. One that was moved keeps its file "
            "name (privacy.ledger=NEW/PLACE/NAME); the run's own stays in its folder"
        )
    raise RecipeError(
        f"{folder} holds a run of another recipe; choose another folder with -o, or give the "
        f"earlier values to continue it:{shown}"
    )
