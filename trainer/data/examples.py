"""Labelled examples as they stand in files: a text with a class, tags, or a second text.

    classification      text_field, label_field; pair_field too if one is named
    tagging             text_field (a list of words, or words between spaces) and
                        label_field (as many tags)
    contrastive,        text_field and pair_field
    sequence-to-sequence

What it refuses: a missing or empty field, a label that is no word or whole number,
another number of tags than words, and a "label" of more than MAX_LABELS values, which
is some other column.

Invariant: no message repeats a field, not even a label: the wrong column may be named.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.files import DataFile
from trainer.data.records import Record, read_records
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import DataOptions

PAIR_TASKS = ("contrastive", "sequence-to-sequence")
LABELLED_TASKS = ("classification", "tagging", *PAIR_TASKS)

MAX_LABELS = 10_000


@dataclass(frozen=True, slots=True, repr=False)
class Example:
    """One labelled example.

    Attributes:
        text: the text; of a tagged one, its words joined by spaces.
        path: its file.
        line: its line, from 1.
        pair: the second text, or "".
        label: the class, or "".
        words: the words of a tagged text.
        tags: a tag for each word.
    """

    text: str
    path: Path
    line: int
    pair: str = ""
    label: str = ""
    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The place for error messages: "file:line"."""
        return f"{self.path}:{self.line}"

    @property
    def digest(self) -> int:
        """64 bits that tell this input from others; labels do not enter."""
        pair = self.pair.strip().encode("utf-8", "surrogatepass")
        text = self.text.strip().encode("utf-8", "surrogatepass")
        content = len(text).to_bytes(8, "little") + text + pair
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def check_fields(task: str, options: DataOptions) -> None:
    """Check that the recipe names the fields that a task needs.

    Raises:
        RecipeError: it does not.
    """
    if task in PAIR_TASKS and not options.pair_field:
        raise RecipeError(
            f"objective.kind {task!r} learns from pairs of texts: name the field of the second "
            "one in data.pair_field"
        )


def read_examples(files: Sequence[DataFile], task: str, options: DataOptions) -> Iterator[Example]:
    """Yield the examples of all files in order.

    Args:
        files: TSV, CSV, JSONL or Parquet files.
        task: one of LABELLED_TASKS.
        options: names of fields and columns.

    Raises:
        DataError: an example that the module refuses; the message names file and line.
        RecipeError: the recipe names no second text where the task needs one.
    """
    check_fields(task, options)
    wanted = [options.text_field, options.label_field, options.pair_field]
    for record in read_records(files, options.columns, wanted):
        yield _example(record, task, options)


def _example(record: Record, task: str, options: DataOptions) -> Example:
    place = (record.path, record.line)
    if task == "tagging":
        words = _words(record, options.text_field)
        tags = _words(record, options.label_field)
        if any(len(word.split()) != 1 for word in words):
            raise DataError(f"{record.where}: a word in {options.text_field!r} holds whitespace")
        if len(words) != len(tags):
            raise DataError(
                f"{record.where}: {len(words)} words in {options.text_field!r} but {len(tags)} "
                f"tags in {options.label_field!r}; there must be one for each word"
            )
        return Example(" ".join(words), *place, words=words, tags=tags)
    text = _text(record, options.text_field)
    pair = _text(record, options.pair_field) if options.pair_field else ""
    if task in PAIR_TASKS:
        return Example(text, *place, pair=pair)
    label = _label(record, options.label_field, record.field(options.label_field))
    return Example(text, *place, pair=pair, label=label)


def _text(record: Record, name: str) -> str:
    text = record.text(name)
    if not text.strip():
        raise DataError(f"{record.where}: the field {name!r} is empty")
    return text


def _words(record: Record, name: str) -> tuple[str, ...]:
    value = record.field(name)
    if isinstance(value, str):
        words = tuple(value.split())
    elif isinstance(value, list):
        words = tuple(_label(record, name, single) for single in value)
    else:
        raise DataError(
            f"{record.where}: the field {name!r} is neither a list nor words between spaces"
        )
    if not words:
        raise DataError(f"{record.where}: the field {name!r} is empty")
    return words


def _label(record: Record, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"{record.where}: the field {name!r} is empty")
        return value.strip()
    raise DataError(
        f"{record.where}: the field {name!r} is of type {type(value).__name__}; a label is a "
        "word or a whole number"
    )


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over a set of examples tells.

    Attributes:
        digests: u64[N], `Example.digest` of each example, in order.
        counts: how often each label or tag occurs.
    """

    digests: NDArray[np.uint64]
    counts: Counter[str] = field(default_factory=Counter)

    def labels(self) -> tuple[str, ...]:
        """Return the labels in order: numbers by value, words by code point."""
        try:
            return tuple(sorted(self.counts, key=lambda label: (int(label), label)))
        except ValueError:
            return tuple(sorted(self.counts))


def survey(files: Sequence[DataFile], task: str, options: DataOptions) -> Survey:
    """Read all examples once, check each, and keep 8 bytes of it.

    Raises:
        DataError: as `read_examples`; also if there are no examples or too many labels.
    """
    digests: list[int] = []
    counts: Counter[str] = Counter()
    for example in read_examples(files, task, options):
        digests.append(example.digest)
        counts.update(example.tags or ((example.label,) if example.label else ()))
        if len(counts) > MAX_LABELS:
            raise DataError(
                f"{example.where}: more than {MAX_LABELS} different values in the field "
                f"{options.label_field!r}; does data.label_field name another column?"
            )
    if not digests:
        names = ", ".join(str(file.path) for file in files[:3])
        raise DataError(f"{names}: no examples; the files hold nothing but a heading")
    return Survey(np.array(digests, dtype=np.uint64), counts)


def hold_out(digests: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Choose the share of examples to validate on, by their digests alone.

    The choice does not depend on the order of the files, and equal texts are always on
    the same side, so that no validation text is in train. At least one example is
    chosen if `fraction` is above 0 and there are two different ones.

    Returns:
        bool[N], True for examples held out.
    """
    distinct = np.unique(digests)
    if fraction <= 0 or distinct.size < 2:
        return np.zeros(digests.shape, dtype=bool)
    count = min(max(1, round(distinct.size * fraction)), distinct.size - 1)
    return np.asarray(digests <= distinct[count - 1], dtype=bool)
