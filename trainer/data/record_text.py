"""Running text for private training: one record (line, JSONL record, document) a sequence.

Other than windows over a stream (`text_dataset`), no sequence holds parts of two records
and no record reaches two sequences, so that the gradient of a row is the gradient of a
unit. Rows are padded to the longest of a batch.

    next-token     begin, text, end; each token predicts the next
    masked         the tokenizer's own frame ([CLS] ... [SEP]) around the text
    infilling      the text alone; spans get its end token

Invariant: an item is a pure function of (seed, epoch, index) and of its own record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.batch import IGNORED, Batch, DataSet, Item
from trainer.data.collation import attention, pad
from trainer.data.files import DataFile, describe_file, find_files
from trainer.data.noisy_text import InfilledText, MaskedText
from trainer.data.pieces import Frame
from trainer.data.record_table import RecordTable, read_table
from trainer.data.sources import MANY_FILES, WHOLE, Part
from trainer.data.tokenization import Tokenizer
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import DataOptions, ObjectiveOptions, Recipe

# What validation is masked with, whatever the recipe's seed.
_VALIDATION_SEED = 0


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """How a record becomes a row.

    Attributes:
        frame: special tokens around the text.
        padding: id that fills rows.
        sequence_length: tokens of a row at most.
        shifted: inputs predict the next token: rows are framed, then cut and shifted.
            Otherwise the text is cut so that the frame stays whole.
    """

    frame: Frame
    padding: int
    sequence_length: int
    shifted: bool

    @property
    def room(self) -> int:
        """Tokens of a record that a row can use."""
        if self.shifted:
            return self.sequence_length + 1
        return self.sequence_length - len(self.frame)

    @property
    def fewest(self) -> int:
        """Tokens that a record needs, so that there is something to learn from."""
        return 2 if len(self.frame) == 0 else 1


def record_layout(
    tokenizer: Tokenizer, objective: ObjectiveOptions, data: DataOptions
) -> RecordLayout:
    """Return how records are laid out for an objective on text.

    Raises:
        RecipeError: data.sequence_length leaves no room beside the special tokens.
    """
    special = tokenizer.special
    shifted = objective.kind == "next-token"
    frame = Frame((), ())
    if shifted:
        begin = special.end if special.begin is None else special.begin
        frame = Frame(_only(begin), _only(special.end))
    elif objective.kind == "masked":
        frame = Frame.of(tokenizer.raw)
    layout = RecordLayout(frame, special.padding, data.sequence_length, shifted)
    if layout.room < layout.fewest:
        raise RecipeError(
            f"data.sequence_length is {data.sequence_length}, and special tokens need "
            f"{len(frame)} of them"
        )
    return layout


def _only(token: int | None) -> tuple[int, ...]:
    return () if token is None else (token,)


class RecordText:
    """One record a sequence; a `DataSet` with `HasLengths` and `HasBytes`.

    Items: input_ids and labels i64[T] for the next token; without labels otherwise.

    Args:
        table: the records.
        layout: how rows are laid out.
    """

    def __init__(self, table: RecordTable, layout: RecordLayout) -> None:
        self.table = table
        self.layout = layout
        digest = hashlib.sha256(repr(layout).encode())
        table.texts.update(digest)
        self._fingerprint = digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and the layout, 64 hex digits."""
        return self._fingerprint

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the text for each token that is predicted, end tokens included."""
        return self.table.utf8_bytes / (self.table.texts.tokens + len(self.table))

    def __len__(self) -> int:
        return len(self.table)

    def length(self, index: int) -> int:
        """Return the tokens of a record without special ones."""
        return self.table.texts.size(index)

    def where(self, epoch: int, index: int) -> str:
        """Return "file:line" of a record; the same in every epoch."""
        del epoch
        return self.table.where(index)

    def item(self, epoch: int, index: int) -> Item:
        """Return the row of a record; the same in every epoch."""
        del epoch
        ids, layout = self.table.texts[index].ids, self.layout
        if not layout.shifted:
            return {"input_ids": layout.frame.around(ids[: layout.room])}
        framed: NDArray[np.int64] = layout.frame.around(ids)[: layout.sequence_length + 1]
        return {"input_ids": framed[:-1], "labels": framed[1:]}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return input_ids and labels i64[B,T], and what tells padding where it is seen.

        A causal network sees no padding behind a row, and needs no mask.
        """
        rows = [item["input_ids"] for item in items]
        limit = self.layout.sequence_length
        batch = {
            "input_ids": pad(rows, self.layout.padding, limit),
            "labels": pad([item["labels"] for item in items], IGNORED, limit),
        }
        if not self.layout.shifted:
            batch["attention_mask"] = attention(rows, limit)
        return batch


def with_objective(
    records: RecordText, objective: ObjectiveOptions, tokenizer: Tokenizer, seed: int
) -> DataSet:
    """Return records as an objective learns from them: as they are, masked or infilled.

    Raises:
        RecipeError: the vocabulary lacks the tokens that the objective needs.
    """
    special = tokenizer.special
    if objective.kind == "masked":
        return MaskedText(
            records,
            special=special,
            vocabulary_size=tokenizer.vocabulary_size,
            probability=objective.mask_probability,
            seed=seed,
        )
    if objective.kind == "infilling":
        return InfilledText(
            records,
            special=special,
            probability=objective.mask_probability,
            mean_span=objective.mean_span,
            seed=seed,
        )
    return records


@dataclass(frozen=True, slots=True)
class RecordData:
    """Records to learn from and to validate on.

    Attributes:
        train: records, before any masks.
        validation: the same; None if nothing is held out.
        sources: of each file: name, sha256, bytes, role.
        report: counts and warnings; no text.
    """

    train: RecordText
    validation: RecordText | None
    sources: list[dict[str, Any]]
    report: dict[str, Any]

    def sets(
        self, recipe: Recipe, tokenizer: Tokenizer
    ) -> tuple[DataSet, DataSet | None, RecordText]:
        """Return train and validation for the recipe's objective, and what is measured."""
        train = with_objective(self.train, recipe.objective, tokenizer, recipe.run.seed)
        if self.validation is None:
            return train, None, self.train
        validation = with_objective(self.validation, recipe.objective, tokenizer, _VALIDATION_SEED)
        return train, validation, self.validation


def read_record_text(
    recipe: Recipe, tokenizer: Tokenizer, progress: Callable[[str], None]
) -> RecordData:
    """Read the text of a recipe as records.

    Records are held out by a hash of their own text, so that whether one is trained on
    depends on no other.

    Raises:
        DataError: the text cannot be used; file and line are named.
        RecipeError: the recipe does not fit records.
    """
    data = recipe.data
    layout = record_layout(tokenizer, recipe.objective, data)
    files = find_files(data.train, data.format)
    share = 0.0 if data.validation else data.validation_fraction
    _check_whole(files, share)

    def records(files: Sequence[DataFile], part: Part = WHOLE) -> RecordText:
        room, fewest = layout.room, layout.fewest
        table = read_table(
            files, data, tokenizer, room=room, fewest=fewest, part=part, progress=progress
        )
        return RecordText(table, layout)

    train = records(files, Part(share) if share else WHOLE)
    sources = [dict(describe_file(file.path, "train")) for file in files]
    validation = None
    if data.validation:
        held_out = find_files(data.validation, data.format)
        validation = records(held_out)
        sources += [dict(describe_file(file.path, "validation")) for file in held_out]
    elif share:
        validation = records(files, Part(share, held_out=True))
    report = _report(train, validation)
    for warning in report["warnings"]:
        progress(f"warning: {warning}")
    return RecordData(train, validation, sources, report)


def _check_whole(files: Sequence[DataFile], share: float) -> None:
    """Refuse to take a text file for a record where that is surely not meant."""
    texts = [file for file in files if file.format == "text"]
    if not texts or len(texts) >= MANY_FILES:
        return
    if share:
        raise DataError(
            f"{texts[0].path}: in private training a plain text file is one record, and there are "
            f"{len(texts)}: none can be held out. If each line is a record set data.format to "
            "'lines'; otherwise name data.validation or set data.validation_fraction to 0"
        )


def _report(train: RecordText, validation: RecordText | None) -> dict[str, Any]:
    table = train.table
    warnings = []
    if table.truncated:
        warnings.append(
            f"{table.truncated:,} of {len(table):,} records are longer than "
            f"data.sequence_length ({train.layout.sequence_length}); what is beyond is not used"
        )
    if table.left_out:
        warnings.append(f"{table.left_out:,} records have too few tokens and are left out")
    return {
        "task": "records",
        "train": {"records": len(table), "tokens": table.texts.tokens},
        "validation": None
        if validation is None
        else {"records": len(validation), "tokens": validation.table.texts.tokens},
        "warnings": warnings,
    }
