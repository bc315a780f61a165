"""Canaries as items of the training set.

All canaries take a place in the data set. One whose coin said no is there without a
target: its gradient is exactly zero, so the data set with it and the data set without it
are neighbours by the zero-out relation that the accounting uses, and neither the size of
the data nor what it costs tells a coin.

Canaries are labelled texts, or records of running text as private training reads them
(`trainer.data.record_text`). Other tasks have none and are refused.

Invariant: the items of the data set that is added to keep their numbers, [0, N);
canaries are N ... N + m - 1, each a unit of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.batch import IGNORED, Batch, DataSet, HasLengths, Item
from trainer.data.labelled import ClassificationExamples, ExampleTable
from trainer.data.record_table import table_of
from trainer.data.record_text import RecordText, record_layout, with_objective
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizing import make_layout
from trainer.privacy.audit.canaries import (
    CANARIES_NAME,
    CANARY_TOKENS,
    CanarySet,
    Records,
    load_canaries,
    make_canaries,
)
from trainer.privacy.errors import PrivacyError
from trainer.recipe.schema import DataOptions, ObjectiveOptions

_TEXT_OBJECTIVES = ("next-token", "masked", "infilling")
# Objectives that canaries exist for.
AUDITED_OBJECTIVES = ("classification", *_TEXT_OBJECTIVES)


def prepare_canaries(
    path: Path,
    count: int,
    *,
    objective: ObjectiveOptions,
    data: DataOptions,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    units: int,
) -> CanarySet:
    """Return the canaries of a run: those of its file, or new ones that are then written.

    Args:
        path: canaries.json of the run.
        count: canaries that the recipe asks for.
        objective: what is trained.
        data: sequence_length, and whether texts come in pairs.
        tokenizer: of the run.
        labels: classes, in order.
        units: records or users of the data without canaries.

    Raises:
        PrivacyError: there are no canaries for this objective, the file cannot be used,
            or belongs to another run.
    """
    if objective.kind not in AUDITED_OBJECTIVES:
        raise PrivacyError(
            f"there are no canaries for objective.kind {objective.kind!r}, only for "
            f"{', '.join(AUDITED_OBJECTIVES)}; set privacy.canaries to 0"
        )
    if path.exists():
        found = load_canaries(path)
        found.check_tokenizer(tokenizer)
        expected = (count, objective.kind, len(labels), units)
        if (len(found), found.objective, found.labels, found.units) != expected:
            raise PrivacyError(
                f"{path} belongs to a run with other data or another recipe; begin a new run in "
                "another folder (-o)"
            )
        return found
    made = make_canaries(
        count,
        objective=objective.kind,
        tokenizer=tokenizer,
        length=min(CANARY_TOKENS, _room(objective, data, tokenizer)),
        labels=len(labels),
        units=units,
    )
    made.save(path)
    return made


def _room(objective: ObjectiveOptions, data: DataOptions, tokenizer: Tokenizer) -> int:
    """Return the tokens that a canary may have beside the special ones."""
    if objective.kind in _TEXT_OBJECTIVES:
        return data.sequence_length - len(record_layout(tokenizer, objective, data).frame)
    layout = make_layout(tokenizer, objective.kind, data)
    return data.sequence_length - len(layout.pair_frame if data.pair_field else layout.frame)


def record_data(
    records: Records,
    *,
    objective: ObjectiveOptions,
    data: DataOptions,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    seed: int = 0,
) -> DataSet:
    """Return random records as a data set of an objective.

    Args:
        records: to learn or to score.
        objective: what is trained.
        data: sequence_length, and whether texts come in pairs.
        tokenizer: says what goes around a text.
        labels: classes, in order.
        seed: of masks and missing spans.

    Raises:
        PrivacyError: the objective is none of AUDITED_OBJECTIVES, or wants labels and the
            records have none.
        RecipeError: sequences have no room.
    """
    place = Path(CANARIES_NAME)
    if objective.kind in _TEXT_OBJECTIVES:
        layout = record_layout(tokenizer, objective, data)
        return with_objective(
            RecordText(table_of(records.ids, place), layout), objective, tokenizer, seed
        )
    if objective.kind not in AUDITED_OBJECTIVES or records.classes is None:
        raise PrivacyError(f"these records are none for objective.kind {objective.kind!r}")
    # Of two texts each gets half of the tokens.
    half = records.ids.shape[1] // 2 if data.pair_field else records.ids.shape[1]
    first = table_of(records.ids[:, :half], place)
    table = ExampleTable(
        texts=first.texts,
        pairs=table_of(records.ids[:, half:], place).texts if data.pair_field else None,
        classes=records.classes,
        lines=first.lines,
        files=first.files,
        paths=first.paths,
        truncated=0,
    )
    return ClassificationExamples(
        table, make_layout(tokenizer, objective.kind, data), tuple(labels)
    )


class PlantedData:
    """A data set and canaries after its items.

    Args:
        dataset: what is learned.
        canaries: all of them, as a data set of the same kind.
        planted: canaries.json's coins and digest.
    """

    def __init__(self, dataset: DataSet, canaries: DataSet, planted: CanarySet) -> None:
        self._dataset = dataset
        self._canaries = canaries
        self._included = planted.included
        content = f"planted\n{dataset.fingerprint}\n{planted.digest}"
        self._fingerprint = hashlib.sha256(content.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data set's fingerprint and of the commitment to the canaries."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._dataset) + len(self._canaries)

    def item(self, epoch: int, index: int) -> Item:
        """Return an item; a canary that was left out has no target."""
        own = len(self._dataset)
        if index < own:
            return self._dataset.item(epoch, index)
        item = self._canaries.item(epoch, index - own)
        if self._included[index - own]:
            return item
        return {**item, "labels": np.full_like(item["labels"], IGNORED)}

    def where(self, epoch: int, index: int) -> str:
        """Return where an item comes from."""
        own = len(self._dataset)
        if index < own:
            return self._dataset.where(epoch, index)
        return self._canaries.where(epoch, index - own)

    def groups(self, users: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Return the items of each user, when every canary is a user of its own."""
        return [*users, *(np.array([index]) for index in range(len(self._dataset), len(self)))]

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return the data set's batch."""
        return self._dataset.collate(items)


class SizedPlantedData(PlantedData):
    """The same over a data set whose items differ in length."""

    def __init__(self, dataset: DataSet, canaries: DataSet, planted: CanarySet) -> None:
        super().__init__(dataset, canaries, planted)
        if not isinstance(dataset, HasLengths) or not isinstance(canaries, HasLengths):
            raise TypeError("both data sets must know the lengths of their items")
        self._lengths = dataset.length
        self._canary_lengths = canaries.length

    def length(self, index: int) -> int:
        """Return the tokens of an item before noise."""
        own = len(self._dataset)
        return self._lengths(index) if index < own else self._canary_lengths(index - own)


def with_canaries(
    dataset: DataSet,
    planted: CanarySet,
    *,
    objective: ObjectiveOptions,
    data: DataOptions,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    seed: int = 0,
) -> PlantedData:
    """Return a training set with canaries; arguments as in `record_data`.

    Raises:
        PrivacyError: the canaries are of another tokenizer or objective.
    """
    planted.check_tokenizer(tokenizer)
    if planted.objective != objective.kind:
        raise PrivacyError(
            f"the canaries are records for {planted.objective!r}, and {objective.kind!r} is trained"
        )
    canaries = record_data(
        planted.records,
        objective=objective,
        data=data,
        tokenizer=tokenizer,
        labels=labels,
        seed=seed,
    )
    sized = isinstance(dataset, HasLengths) and isinstance(canaries, HasLengths)
    kind = SizedPlantedData if sized else PlantedData
    return kind(dataset, canaries, planted)
