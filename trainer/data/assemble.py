"""What a recipe gets of its data: a training set, a validation set, a tokenizer.

This is where objectives meet data: running text for language models (as it is, masked,
infilled or noised), labelled examples for the rest. In private training running text is
taken record by record, so that a sequence holds nothing of two of them. Word embeddings
read text on their own (trainer.embeddings) and are refused here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.augmentation import Augmenter, check_for_running_text
from trainer.data.batch import DataSet
from trainer.data.examples import LABELLED_TASKS
from trainer.data.files import find_files
from trainer.data.labelled_bundle import VALIDATION_SEED, build_labelled
from trainer.data.noisy_text import InfilledText, MaskedText, NoisyText
from trainer.data.prepare import prepare_text
from trainer.data.record_text import read_record_text
from trainer.data.shards import ShardSet
from trainer.data.text_dataset import WindowedText, holds_token
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizing import load_labelled
from trainer.data.user_groups import places_of, user_groups
from trainer.data.word_marks import WordMarks
from trainer.errors import RecipeError
from trainer.recipe.schema import DataOptions, ModelOptions, ObjectiveOptions, Recipe

# Folder of the run that prepared text is kept in, unless data.cache names another.
SHARDS = "shards"
# A family that learns each text objective: what evaluation builds a recipe with.
_FAMILIES = {"next-token": "recurrent", "masked": "encoder", "infilling": "seq2seq"}


@dataclass(frozen=True, slots=True)
class DataBundle:
    """Everything that a run needs to know of its data.

    Attributes:
        train: what is learned from.
        validation: what is validated on; None if nothing is held out.
        tokenizer: to be saved beside the weights.
        labels: classes or tags, in order; empty for other tasks.
        sources: of each file: name, sha256, bytes, role ("train", "validation").
        bytes_per_token: of the validation text (of train's, without one), for bits per
            byte; None where the objective does not predict all of a text.
        report: figures about vocabulary and examples, and `warnings`; no text.
        groups: where privacy is by user: the items of each, i64[records].
    """

    train: DataSet
    validation: DataSet | None
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    sources: list[dict[str, Any]]
    bytes_per_token: float | None
    report: dict[str, Any] | None
    groups: list[NDArray[np.int64]] | None = None


def silent(message: str) -> None:
    """Tell nobody."""
    del message


def build_data(
    recipe: Recipe,
    folder: Path,
    base_tokenizer: Tokenizer | None,
    progress: Callable[[str], None] = silent,
) -> DataBundle:
    """Return the data of a recipe, ready for a Loader.

    Args:
        recipe: what to learn, and from what.
        folder: of the run; shards and trained tokenizers go to `shards` in it unless
            data.cache says otherwise.
        base_tokenizer: of the model that is finetuned; None trains or reads one.
        progress: is told what happens, in words without any text of the data.

    Raises:
        DataError: the data cannot be used; file and line are named.
        RecipeError: sections do not fit one another or the data.
    """
    kind = recipe.objective.kind
    if kind in LABELLED_TASKS:
        data = build_labelled(recipe, folder / SHARDS, base_tokenizer, progress)
        return DataBundle(
            train=data.train,
            validation=data.validation,
            tokenizer=data.tokenizer,
            labels=data.labels,
            sources=data.sources,
            bytes_per_token=None,
            report=data.report,
            groups=_groups(recipe, data.train),
        )
    if kind not in _FAMILIES:
        raise RecipeError(
            f"objective.kind {kind!r} has no batches of sequences; word embeddings are trained "
            "by trainer.embeddings"
        )
    if recipe.privacy.enabled:
        return _build_records(recipe, base_tokenizer, progress)
    return _build_text(recipe, folder, base_tokenizer, progress)


def _groups(recipe: Recipe, records: DataSet) -> list[NDArray[np.int64]] | None:
    if not recipe.privacy.enabled or recipe.privacy.unit != "user":
        return None
    return user_groups(recipe, places_of(records))


def _build_records(
    recipe: Recipe, base_tokenizer: Tokenizer | None, progress: Callable[[str], None]
) -> DataBundle:
    """Return running text record by record, with a tokenizer that is not made from it."""
    _check_augmentation(recipe)
    tokenizer = base_tokenizer
    if tokenizer is None:
        if recipe.tokenizer.kind != "file":
            raise RecipeError(
                "a tokenizer that is trained on private data reveals words of it; use a public "
                "one (tokenizer.kind = 'file'), or finetune a model (model.source)"
            )
        tokenizer = Tokenizer.load(Path(recipe.tokenizer.file))
    data = read_record_text(recipe, tokenizer, progress)
    train, validation, measured = data.sets(recipe, tokenizer)
    augmenter = Augmenter.from_options(recipe.augmentation, tokenizer.special)
    if augmenter is not None:
        train = NoisyText(
            train, augmenter=augmenter, words=WordMarks(tokenizer), seed=recipe.run.seed
        )
    return DataBundle(
        train=train,
        validation=validation,
        tokenizer=tokenizer,
        labels=(),
        sources=data.sources,
        bytes_per_token=measured.bytes_per_token
        if recipe.objective.kind == "next-token" and tokenizer.lossless
        else None,
        report=data.report,
        groups=_groups(recipe, data.train),
    )


def _build_text(
    recipe: Recipe,
    folder: Path,
    base_tokenizer: Tokenizer | None,
    progress: Callable[[str], None],
) -> DataBundle:
    _check_augmentation(recipe)
    prepared = prepare_text(recipe, base_tokenizer, folder / SHARDS, progress)
    tokenizer = prepared.tokenizer
    windows = _windows(prepared.train, recipe.data, recipe.objective, tokenizer, recipe.run.seed)
    train = _with_objective(windows, recipe.objective, tokenizer, recipe.run.seed)
    augmenter = Augmenter.from_options(recipe.augmentation, tokenizer.special)
    if augmenter is not None:
        train = NoisyText(
            train, augmenter=augmenter, words=WordMarks(tokenizer), seed=recipe.run.seed
        )
    validation: DataSet | None = None
    measured = windows
    if prepared.validation is not None:
        measured = _windows(
            prepared.validation, recipe.data, recipe.objective, tokenizer, None, role="validation"
        )
        validation = _with_objective(measured, recipe.objective, tokenizer, VALIDATION_SEED)
    return DataBundle(
        train=train,
        validation=validation,
        tokenizer=tokenizer,
        labels=(),
        sources=prepared.sources,
        bytes_per_token=measured.bytes_per_token if recipe.objective.kind == "next-token" else None,
        report=prepared.report,
    )


def _check_augmentation(recipe: Recipe) -> None:
    options = recipe.augmentation
    if recipe.objective.kind == "next-token":
        check_for_running_text(options)
        return
    for field in dataclasses.fields(options):
        if getattr(options, field.name):
            raise RecipeError(
                f"augmentation.{field.name} does not go with objective.kind "
                f"{recipe.objective.kind!r}, which is noise itself; change "
                "objective.mask_probability or objective.mean_span instead"
            )


def _windows(
    shards: ShardSet,
    data: DataOptions,
    objective: ObjectiveOptions,
    tokenizer: Tokenizer,
    seed: int | None,
    *,
    role: str = "train",
) -> WindowedText:
    return WindowedText(
        shards,
        sequence_length=data.sequence_length,
        # An encoder-decoder's batch has no place for documents.
        boundaries=data.boundaries and objective.kind != "infilling",
        seed=seed,
        end=tokenizer.special.end,
        role=role,
        # What is trained on is not measured in bytes: no need to go over all of it.
        lossless=role != "train"
        and tokenizer.lossless
        and not holds_token(shards, tokenizer.special.unknown),
    )


def _with_objective(
    windows: DataSet, objective: ObjectiveOptions, tokenizer: Tokenizer, seed: int
) -> DataSet:
    if objective.kind == "masked":
        return MaskedText(
            windows,
            special=tokenizer.special,
            vocabulary_size=tokenizer.vocabulary_size,
            probability=objective.mask_probability,
            seed=seed,
        )
    if objective.kind == "infilling":
        return InfilledText(
            windows,
            special=tokenizer.special,
            probability=objective.mask_probability,
            mean_span=objective.mean_span,
            seed=seed,
        )
    return windows


def evaluation_data(
    paths: Sequence[str],
    *,
    objective: ObjectiveOptions,
    data: DataOptions,
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    folder: Path,
    progress: Callable[[str], None] = silent,
) -> DataSet:
    """Return files as the data set that an objective is evaluated on.

    Nothing is noised but what the objective itself masks, and those masks are the same
    every time.

    Args:
        paths: files and directories.
        objective: what the model was trained for.
        data: fields, columns, format and sequence_length.
        tokenizer: of the model.
        labels: of the model, in order.
        folder: where shards may be written.
        progress: is told what happens.

    Raises:
        DataError: the data cannot be used; file and line are named.
        RecipeError: the objective is not evaluated on batches, or needs tokens that the
            tokenizer does not have.
    """
    kind = objective.kind
    if kind in LABELLED_TASKS:
        files = find_files(paths, data.format)
        return load_labelled(
            files, kind, data, tokenizer, labels, seed=VALIDATION_SEED, progress=progress
        )
    if kind not in _FAMILIES:
        raise RecipeError(f"objective.kind {kind!r} is not evaluated on batches of sequences")
    whole = dataclasses.replace(
        data, train=tuple(paths), validation=(), validation_fraction=0.0, cache=""
    )
    recipe = Recipe(model=ModelOptions(family=_FAMILIES[kind]), objective=objective, data=whole)
    prepared = prepare_text(recipe, tokenizer, folder, progress)
    windows = _windows(prepared.train, whole, objective, tokenizer, None, role="evaluation")
    return _with_objective(windows, objective, tokenizer, VALIDATION_SEED)
