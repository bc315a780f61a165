"""The labelled data of a recipe: files to a training and a validation set.

Files are read two or three times rather than held in memory: once to check every
example and to know labels and copies, once to train a tokenizer where one is needed,
and once to tokenize.

Invariants:
- No text that is held out reaches the training of the tokenizer or the network.
- The report counts validation texts that train has too, and never shows one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.augmentation import Augmenter
from trainer.data.examples import PAIR_TASKS, Survey, hold_out, read_examples, survey
from trainer.data.files import DataFile, describe_file, find_files
from trainer.data.kept_tokenizer import kept_tokenizer
from trainer.data.labelled import LabelledExamples
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import TrainedTokenizer, train_tokenizer
from trainer.data.tokenizing import load_labelled
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import Recipe

# The most frequent label of so large a share makes accuracy a poor figure.
_DOMINANT_SHARE = 0.9
# Validation noise, if any, must not depend on the recipe's seed.
VALIDATION_SEED = 0
# Goes up when the same texts would give another tokenizer.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class LabelledData:
    """What a recipe gets of labelled files.

    Attributes:
        train: noised as the recipe says.
        validation: never noised; None if nothing is held out.
        tokenizer: the base model's, the recipe's file, or one trained here.
        labels: in order.
        sources: of each file: name, sha256, bytes, role.
        report: counts, class balance, copies and warnings.
    """

    train: LabelledExamples
    validation: LabelledExamples | None
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    sources: list[dict[str, Any]]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Split:
    """Which examples are trained on, and which are validated on."""

    train_files: list[DataFile]
    validation_files: list[DataFile]
    seen: Survey
    validation_seen: Survey | None
    held_out: NDArray[np.bool_]

    @property
    def shared(self) -> int:
        """Validation examples whose text train has too."""
        if self.validation_seen is None:
            return 0
        return int(np.isin(self.validation_seen.digests, self.seen.digests).sum())

    @property
    def repeated(self) -> int:
        """Training examples whose text came before."""
        trained = self.seen.digests[~self.held_out]
        return int(trained.size - np.unique(trained).size)


def build_labelled(
    recipe: Recipe,
    folder: Path,
    base_tokenizer: Tokenizer | None,
    progress: Callable[[str], None],
) -> LabelledData:
    """Read, check, split and tokenize the labelled examples of a recipe.

    Args:
        recipe: its data, tokenizer, augmentation, objective and model sections decide.
        folder: a tokenizer trained here is kept in it, unless data.cache names another.
        base_tokenizer: of the model that is finetuned; None for a new model.
        progress: is told what happens.

    Raises:
        DataError: an example is refused; the message names file and line.
        RecipeError: sections do not fit the data or one another.
    """
    split = _split(recipe)
    labels = _labels(recipe, split)
    tokenizer, vocabulary = _tokenizer(recipe, folder, split, base_tokenizer, progress)
    task = recipe.objective.kind
    train = load_labelled(
        split.train_files,
        task,
        recipe.data,
        tokenizer,
        labels,
        keep=~split.held_out,
        augmenter=Augmenter.from_options(recipe.augmentation, tokenizer.special),
        seed=recipe.run.seed,
        progress=progress,
    )
    validation = _validation(recipe, split, tokenizer, labels)
    report = _report(task, train, validation, split)
    report["vocabulary"] = vocabulary
    for warning in report["warnings"]:
        progress(f"warning: {warning}")
    return LabelledData(train, validation, tokenizer, labels, _sources(split), report)


def _split(recipe: Recipe) -> _Split:
    data, task = recipe.data, recipe.objective.kind
    train_files = find_files(data.train, data.format)
    seen = survey(train_files, task, data)
    if data.validation:
        validation_files = find_files(data.validation, data.format)
        nothing = np.zeros(seen.digests.shape, dtype=bool)
        validation_seen = survey(validation_files, task, data)
        return _Split(train_files, validation_files, seen, validation_seen, nothing)
    return _Split(train_files, [], seen, None, hold_out(seen.digests, data.validation_fraction))


def _labels(recipe: Recipe, split: _Split) -> tuple[str, ...]:
    if recipe.objective.kind in PAIR_TASKS:
        return ()
    labels = recipe.data.labels or split.seen.labels()
    if len(set(labels)) != len(labels):
        raise RecipeError("data.labels names a label twice")
    if recipe.objective.kind == "classification" and len(labels) < 2:
        raise DataError(
            f"{split.train_files[0].path}: all examples have the same label; there is nothing to "
            "tell apart (does data.label_field name the right column?)"
        )
    return labels


def _tokenizer(
    recipe: Recipe,
    folder: Path,
    split: _Split,
    base: Tokenizer | None,
    progress: Callable[[str], None],
) -> tuple[Tokenizer, dict[str, Any] | None]:
    if base is not None:
        return base, None
    if recipe.tokenizer.kind == "file":
        if not recipe.tokenizer.file:
            raise RecipeError("tokenizer.kind is 'file', but tokenizer.file names none")
        return Tokenizer.load(Path(recipe.tokenizer.file)), None
    base_folder = Path(recipe.data.cache) if recipe.data.cache else folder

    def train() -> TrainedTokenizer:
        progress("training the tokenizer on the training texts")
        return train_tokenizer(recipe.tokenizer, _TrainingTexts(recipe, split), recipe.model.family)

    return kept_tokenizer(base_folder / _name(recipe, split), train)


def _name(recipe: Recipe, split: _Split) -> str:
    """Return a name that changes with whatever decides a trained tokenizer."""
    data = recipe.data
    fields = (data.text_field, data.pair_field, data.columns, recipe.objective.kind)
    settings = repr((_VERSION, recipe.model.family, recipe.tokenizer, fields))
    digest = hashlib.sha256(settings.encode())
    digest.update(split.seen.digests.astype("<u8").tobytes())
    digest.update(split.held_out.tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _TrainingTexts:
    """The texts that are trained on, to be gone over as often as needed."""

    recipe: Recipe
    split: _Split

    def __iter__(self) -> Iterator[str]:
        recipe, split = self.recipe, self.split
        examples = read_examples(split.train_files, recipe.objective.kind, recipe.data)
        for example in compress(examples, (~split.held_out).tolist()):
            yield example.text
            if example.pair:
                yield example.pair


def _validation(
    recipe: Recipe, split: _Split, tokenizer: Tokenizer, labels: tuple[str, ...]
) -> LabelledExamples | None:
    if not split.validation_files and not split.held_out.any():
        return None
    return load_labelled(
        split.validation_files or split.train_files,
        recipe.objective.kind,
        recipe.data,
        tokenizer,
        labels,
        keep=None if split.validation_files else split.held_out,
        seed=VALIDATION_SEED,
    )


def _sources(split: _Split) -> list[dict[str, Any]]:
    return [
        *(describe_file(file.path, "train") for file in split.train_files),
        *(describe_file(file.path, "validation") for file in split.validation_files),
    ]


def _report(
    task: str, train: LabelledExamples, validation: LabelledExamples | None, split: _Split
) -> dict[str, Any]:
    counts = train.label_counts()
    warnings = []
    if split.shared:
        warnings.append(
            f"{split.shared} of {len(validation or ())} validation texts are in train too: "
            "validation figures will be too good"
        )
    total = sum(counts.values())
    if task == "classification" and max(counts.values()) > _DOMINANT_SHARE * total:
        warnings.append(
            f"one label has {max(counts.values()) / total:.0%} of the examples: look at F1, not "
            "at accuracy"
        )
    missing = [label for label, count in counts.items() if count == 0]
    if missing:
        warnings.append(f"no training example has the label {', '.join(missing)}")
    return {
        "task": task,
        "train": _describe(train) | {"repeated": split.repeated},
        "validation": None if validation is None else _describe(validation),
        "held_out": bool(split.held_out.any()),
        "shared_texts": split.shared,
        "warnings": warnings,
    }


def _describe(examples: LabelledExamples) -> dict[str, Any]:
    table = examples.table
    pairs = 0 if table.pairs is None else table.pairs.tokens
    return {
        "examples": len(examples),
        "tokens": table.texts.tokens + pairs,
        "truncated": table.truncated,
        "labels": examples.label_counts(),
    }
