"""What can be known to be wrong before anything heavy starts: missing paths, odd shares.

Only looks; reads no file and imports no framework.
"""

from __future__ import annotations

import os
from pathlib import Path

from trainer.errors import DataError, RecipeError
from trainer.recipe.parse import LoadedRecipe
from trainer.recipe.schema import PartsOptions, Recipe

# A Hugging Face directory has at least this file.
_CONFIG_FILE = "config.json"


def check_recipe(loaded: LoadedRecipe) -> None:
    """Check that what a recipe refers to is there.

    Raises:
        DataError: no training data is given, or a path of data is missing.
        RecipeError: model.source or tokenizer.file is missing, or the recipe is for
            finetuning and names no model.
    """
    recipe = loaded.recipe
    if not recipe.model.source and recipe.parts != PartsOptions():
        raise RecipeError(
            "[parts] says what to do with a model that is there, but model.source is empty: "
            f"casemate finetune {loaded.name} --model DIRECTORY"
        )
    check_start(recipe)
    check_data(recipe)


def check_private(loaded: LoadedRecipe) -> None:
    """Check what a private run refuses by its recipe alone, and that its ledger is there.

    Raises:
        PrivacyError: what cannot be claimed, by name.
        LedgerError: the ledger that the recipe names is missing.
    """
    if loaded.recipe.privacy.enabled:
        from trainer.privacy.checks import check_recipe as check_claim

        check_claim(loaded.recipe)
        check_ledger(loaded)


def check_ledger(loaded: LoadedRecipe) -> None:
    """Check that the ledger that a recipe names is there.

    Raises:
        LedgerError: it is not.
    """
    from trainer.privacy.errors import LedgerError

    options = loaded.recipe.privacy
    if options.ledger and not Path(options.ledger).exists():
        raise LedgerError.missing(Path(options.ledger), options.dataset or loaded.name)


def check_start(recipe: Recipe) -> None:
    """Check that the model to start from and the tokenizer are there.

    Raises:
        RecipeError: they are not.
    """
    source = recipe.model.source
    if source and not Path(source).is_dir():
        raise RecipeError(f"model.source: there is no directory {source}")
    if source and not (Path(source) / _CONFIG_FILE).is_file():
        raise RecipeError(f"model.source: {source} has no {_CONFIG_FILE}; it is no model")
    if recipe.tokenizer.kind == "file" and not source:
        if not recipe.tokenizer.file:
            raise RecipeError("tokenizer.kind is 'file'; say which with tokenizer.file=PATH")
        _readable("tokenizer.file", recipe.tokenizer.file)


def check_data(recipe: Recipe) -> None:
    """Check that the data is there.

    Raises:
        DataError: none is given, or a path is missing or may not be read.
    """
    if not recipe.data.train:
        raise DataError(
            "there is nothing to learn from: give data.train=PATH (files or directories, "
            "separated by commas)"
        )
    for key, paths in (
        ("data.train", recipe.data.train),
        ("data.validation", recipe.data.validation),
    ):
        for path in paths:
            if not Path(path).exists():
                raise DataError(f"{key}: there is no file or directory {path}")
            if not os.access(path, os.R_OK):
                raise DataError(f"{key}: {path} may not be read by this user")


def check_ranks(recipe: Recipe, ranks: int) -> None:
    """Check that so many ranks can share the work of a recipe.

    Raises:
        RecipeError: passes that the ranks cannot share evenly, or a family that runs as
            one process.
    """
    if ranks == 1:
        return
    if recipe.model.family == "word-embeddings":
        raise RecipeError(
            "word embeddings are trained by one process with threads; leave out --ranks"
        )
    batch = recipe.batch
    passes = batch.sequences // batch.micro_sequences if batch.micro_sequences else batch.sequences
    if passes % ranks:
        what = "passes of batch.micro_sequences" if batch.micro_sequences else "batch.sequences"
        raise RecipeError(
            f"{passes} {what} an update cannot be shared by {ranks} ranks; "
            f"take a multiple of {ranks}"
        )


def _readable(key: str, path: str) -> None:
    if not Path(path).is_file():
        raise RecipeError(f"{key}: there is no file {path}")
