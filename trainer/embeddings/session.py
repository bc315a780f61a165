"""A run of word embeddings: text to words, passes over them, and the checkpoint.

One process with threads; `run.steps` counts passes over the text. What reporters call a
step is one chunk (`training.CHUNK` tokens). After each pass the loss on the held-out text
is measured, every weight is looked at, and the state is saved; a run that was stopped or
killed goes on from the newest state, with one thread to the very same result.

The run folder is that of every family (see `trainer.loop.session`): `checkpoints/` to go
on from, `final/` when the run is complete, `summary.json` last.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from trainer.checkpointing.export import export_checkpoint
from trainer.checkpointing.origin import record_of_run
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
from trainer.loop.finish import write_summary
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
            reason = passes.run(
                Limits(lambda: stop.requested, minutes * 60 if minutes else math.inf)
            )
        summary = _figures(passes, reason)
        if summary["finished"]:
            summary["checkpoint"] = str(_export(loaded, output, text, passes))
    finally:
        reporter.finish(summary)
    return write_summary(output, summary, html=recipe.report.html)


def _passes(
    loaded: LoadedRecipe,
    output: Path,
    reporter: Reporter,
    text: PreparedText,
    options: SkipGramOptions,
) -> Passes:
    recipe, special, size = loaded.recipe, text.tokenizer.special, text.tokenizer.vocabulary_size
    check_memory(size, options.width)
    corpus = ShardCorpus(text.train, special, size)
    reporter.note("counting words")
    counts, words = count_words(corpus, size)
    if not counts.any():
        raise DataError(
            "no word of the training text is in the vocabulary; lower tokenizer.minimum_count "
            "or give more text"
        )
    states = StateFolder(
        output / "checkpoints",
        recipe_digest(recipe),
        text.train.digest,
        recipe.checkpoint.keep_last,
    )
    return Passes(
        SkipGram(counts, options),
        corpus,
        None if text.validation is None else ShardCorpus(text.validation, special, size),
        states,
        reporter,
        words=words,
        every_pass=recipe.checkpoint.every_steps > 0,
    )


def _plan(
    loaded: LoadedRecipe,
    output: Path,
    text: PreparedText,
    options: SkipGramOptions,
    passes: Passes,
) -> RunPlan:
    recipe = loaded.recipe
    parameters = 2 * text.tokenizer.vocabulary_size * options.width
    return RunPlan(
        name=loaded.name,
        folder=output,
        steps=passes.chunks,
        first_step=passes.progress.chunks,
        family=recipe.model.family,
        objective=recipe.objective.kind,
        parameters=parameters,
        trainable=parameters,
        device=f"cpu ({options.threads} threads, {load().kernels()[0]})",
        dtype="float32",
        log_every_steps=recipe.report.log_every_steps,
        tokens_per_step=passes.words_per_chunk,
        recipe=all_values(recipe),
        recipe_digest=recipe_digest(recipe),
        sources=tuple(text.sources),
    )


def _figures(passes: Passes, reason: str) -> dict[str, Any]:
    progress = passes.progress
    return {
        "finished": reason != "asked",
        "reason": reason,
        "steps": passes.passes,
        "chunks": progress.chunks,
        "seconds": progress.seconds,
        "tokens": passes.words,
        "tokens_per_second": passes.words / progress.seconds if progress.seconds else 0.0,
        "loss": progress.loss,
        "validation_loss": progress.validation_loss,
        "metrics": {},
    }


def _export(loaded: LoadedRecipe, output: Path, text: PreparedText, passes: Passes) -> Path:
    recipe, loss = loaded.recipe, passes.progress.validation_loss
    settings = {
        "window": recipe.objective.window,
        "negatives": recipe.objective.negatives,
        "subsample": recipe.objective.subsample,
    }
    record = record_of_run(
        recipe,
        name=loaded.name,
        sources=text.sources,
        data_fingerprint=text.train.digest,
        steps=passes.passes,
        metrics={} if loss is None else {"validation_loss": loss},
        device=torch.device("cpu"),
    )
    model = passes.model
    vectors = WordVectors(model.inputs, model.outputs, model.counts, settings)
    return export_checkpoint(output / "final", vectors, None, text.tokenizer, record)
