"""A run of word embeddings: text to words, passes over them, and the checkpoint.

One process with threads; `run.steps` counts passes over the text. What reporters call a
step is one chunk (`training.CHUNK` tokens). After each pass the loss on the held-out text
is measured, every weight is looked at, and the state is saved; a run that was stopped or
killed goes on from the newest state, with one thread to the very same result.

The run folder is that of every family (see `trainer.loop.session`): `checkpoints/` to go
on from, `final/` when the run is complete, `summary.json` last.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from trainer.checkpointing.export import export_checkpoint
from trainer.checkpointing.record import TrainingRecord
from trainer.data.prepare import PreparedText, prepare_text
from trainer.distribution.environment import resolve
from trainer.embeddings.corpus import ShardCorpus, count_words
from trainer.embeddings.native import load
from trainer.embeddings.passes import Limits, Passes
from trainer.embeddings.settings import check_memory, skip_gram_options, thread_count
from trainer.embeddings.state import StateFolder
from trainer.embeddings.training import SkipGram, SkipGramOptions
from trainer.embeddings.vectors import WordVectors
from trainer.errors import DataError, RecipeError
from trainer.loop.interrupts import stop_on_signals
from trainer.recipe.describe import all_values
from trainer.recipe.digest import recipe_digest
from trainer.recipe.parse import LoadedRecipe
from trainer.reporting.reporter import Reporter, RunPlan


def train_embeddings(loaded: LoadedRecipe, output: Path, reporter: Reporter) -> dict[str, Any]:
    """Train word embeddings, or go on with a run that was cut.

    Args:
        loaded: a recipe of the family word-embeddings.
        output: the run folder.
        reporter: is told how it goes.

    Returns:
        The summary, JSON values; `finished` is False if the run was asked to stop.

    Raises:
        RecipeError, DataError: the recipe or the data cannot be used.
        TrainingError: the run could not go on; what was saved is good.
    """
    recipe = loaded.recipe
    options = skip_gram_options(recipe, thread_count(os.environ))
    if resolve(os.environ).world > 1:
        raise RecipeError(
            "word embeddings are trained by one process with threads; start it without ranks"
        )
    load()
    text = prepare_text(recipe, None, output / "shards", reporter.note)
    passes = _passes(loaded, output, reporter, text, options)
    passes.restore()
    reporter.start(_plan(loaded, output, text, options, passes))
    summary: dict[str, Any] = {}
    try:
        minutes = recipe.run.max_minutes
        with stop_on_signals() as stop:
            passes.run(Limits(lambda: stop.requested, minutes * 60 if minutes else math.inf))
        summary = _summary(passes)
        if passes.finished:
            summary["checkpoint"] = str(_export(loaded, output, text, passes, summary))
    finally:
        reporter.finish(summary)
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary
