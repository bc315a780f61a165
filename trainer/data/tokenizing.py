"""Labelled files to tables: read, tokenize in chunks, cut to length, number the labels.

Texts are dropped as soon as they are tokens, so memory holds tokens and one chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.augmentation import Augmenter
from trainer.data.columns import ColumnBuilder
from trainer.data.examples import PAIR_TASKS, Example, read_examples
from trainer.data.files import DataFile
from trainer.data.labelled import TASK_SETS, ExampleTable, LabelledExamples, Layout
from trainer.data.pieces import Frame, PairFrame, Pieces, cut, cut_tagged
from trainer.data.tokenization import Tokenizer
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import DataOptions

# A chunk ends at whichever comes first. An encoding with offsets takes some hundred times
# the memory of its text, so long texts make short chunks.
_CHUNK_EXAMPLES = 1024
_CHUNK_CHARACTERS = 1_000_000
# Labels that a message lists.
_NAMED_LABELS = 12


def load_labelled(
    files: Sequence[DataFile],
    task: str,
    options: DataOptions,
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    *,
    keep: NDArray[np.bool_] | None = None,
    augmenter: Augmenter | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LabelledExamples:
    """Return the examples of files as the data set of a task.

    Args:
        files: TSV, CSV, JSONL or Parquet files.
        task: classification, tagging, contrastive or sequence-to-sequence.
        options: fields, columns and sequence_length.
        tokenizer: makes the tokens, and says which special ones go around a text.
        labels: the classes or tags, in order; empty for tasks on pairs.
        keep: bool[examples], which of them to take; None takes all.
        augmenter: noise on inputs; None for validation.
        seed: of the noise.
        progress: is told how many examples are done.

    Raises:
        DataError: an example is refused (file and line are named), or none is left.
        RecipeError: data.sequence_length leaves no room beside the special tokens.
    """
    layout = make_layout(tokenizer, task, options)
    examples: Iterator[Example] = read_examples(files, task, options)
    if keep is not None:
        examples = compress(examples, keep.tolist())
    numbers = {label: number for number, label in enumerate(labels)}
    paths = tuple(dict.fromkeys(file.path for file in files))
    filler = _Filler(layout, tokenizer, task, numbers, paths, paired=bool(options.pair_field))
    for chunk in _chunks(examples):
        filler.add(chunk)
        if progress is not None:
            progress(f"tokenized {len(filler)} examples")
    if len(filler) == 0:
        names = ", ".join(str(path) for path in paths[:3])
        raise DataError(f"{names}: no examples; the files hold nothing but a heading")
    return TASK_SETS[task](filler.table(), layout, labels, augmenter=augmenter, seed=seed)


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    characters = 0
    for example in examples:
        chunk.append(example)
        characters += len(example.text) + len(example.pair)
        if len(chunk) == _CHUNK_EXAMPLES or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def make_layout(tokenizer: Tokenizer, task: str, options: DataOptions) -> Layout:
    """Return how rows of a task are laid out with this tokenizer.

    Raises:
        RecipeError: data.sequence_length leaves no room beside the special tokens.
    """
    special = tokenizer.special
    separator = special.end if special.separator is None else special.separator
    layout = Layout(
        frame=Frame.of(tokenizer.raw),
        pair_frame=PairFrame.of(tokenizer.raw, separator),
        padding=special.padding,
        end=special.end if task == "sequence-to-sequence" else None,
        sequence_length=options.sequence_length,
    )
    # Two texts need a token each, and a target may get an end token beside its frame.
    needed = max(len(layout.frame) + 2, len(layout.pair_frame) + 2)
    if options.sequence_length < needed:
        raise RecipeError(
            f"data.sequence_length is {options.sequence_length}, but special tokens and one "
            f"token of text need {needed}"
        )
    return layout


class _Filler:
    """Fills the arrays of an ExampleTable."""

    def __init__(
        self,
        layout: Layout,
        tokenizer: Tokenizer,
        task: str,
        numbers: Mapping[str, int],
        paths: tuple[Path, ...],
        *,
        paired: bool,
    ) -> None:
        self._layout = layout
        self._backend = tokenizer.raw
        self._task = task
        self._numbers = numbers
        self._paths = paths
        self._path_numbers = {path: number for number, path in enumerate(paths)}
        self._texts = ColumnBuilder(tagged=task == "tagging")
        self._paired = paired and task != "tagging"
        self._pairs = ColumnBuilder() if self._paired else None
        self._classes = array("q")
        self._lines = array("q")
        self._files = array("i")
        self._truncated = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, chunk: Sequence[Example]) -> None:
        texts = self._cut(chunk)
        pairs: Sequence[Pieces | None] = [None] * len(chunk)
        if self._paired:
            pairs = cut(self._backend, [example.pair for example in chunk])
        for example, text, pair in zip(chunk, texts, pairs, strict=True):
            self._append(example, text, pair)

    def _cut(self, chunk: Sequence[Example]) -> list[Pieces]:
        if self._task != "tagging":
            return cut(self._backend, [example.text for example in chunk])
        tags = [[self._number(example, tag) for tag in example.tags] for example in chunk]
        return cut_tagged(self._backend, [example.words for example in chunk], tags)

    def _append(self, example: Example, text: Pieces, pair: Pieces | None) -> None:
        for pieces in (text, pair):
            if pieces is not None and len(pieces) == 0:
                raise DataError(
                    f"{example.where}: the tokenizer makes no token of this text; its vocabulary "
                    "holds none of its characters"
                )
        text_limit, pair_limit = self._limits(text, pair)
        self._texts.append(self._shorten(text, text_limit))
        if self._pairs is not None and pair is not None:
            self._pairs.append(self._shorten(pair, pair_limit))
        label = example.label
        self._classes.append(self._number(example, label) if label else 0)
        self._lines.append(example.line)
        self._files.append(self._path_numbers[example.path])

    def _limits(self, text: Pieces, pair: Pieces | None) -> tuple[int, int]:
        """Return the tokens that both texts may keep; of two in one row the longer gives."""
        layout = self._layout
        if self._task in PAIR_TASKS or pair is None:
            room = layout.sequence_length - len(layout.frame)
            ends_itself = layout.end is None or layout.end in layout.frame.after
            return room, room - (0 if ends_itself else 1)
        room = layout.sequence_length - len(layout.pair_frame)
        half = room // 2
        text_limit = max(room - len(pair), room - half)
        return text_limit, max(room - len(text), half)

    def _shorten(self, pieces: Pieces, limit: int) -> Pieces:
        if len(pieces) <= limit:
            return pieces
        self._truncated += 1
        return pieces.take(np.arange(limit))

    def _number(self, example: Example, label: str) -> int:
        number = self._numbers.get(label)
        if number is None:
            known = ", ".join(list(self._numbers)[:_NAMED_LABELS])
            more = ", ..." if len(self._numbers) > _NAMED_LABELS else ""
            raise DataError(
                f"{example.where}: the label is none of the {len(self._numbers)} known ones "
                f"({known}{more}); correct the file or data.labels"
            )
        return number

    def table(self) -> ExampleTable:
        return ExampleTable(
            texts=self._texts.build(),
            pairs=None if self._pairs is None else self._pairs.build(),
            classes=np.frombuffer(self._classes, dtype=np.int64),
            lines=np.frombuffer(self._lines, dtype=np.int64),
            files=np.frombuffer(self._files, dtype=np.int32),
            paths=self._paths,
            truncated=self._truncated,
        )
