"""Labelled texts: what a classifier's accuracy is measured on.

| file | what is in it |
| --- | --- |
| `.tsv` | a text, a tab, its label; no quoting, as in GLUE's files |
| `.csv` | the same with the quoting of RFC 4180 |
| `.jsonl` | objects with `text` and `label` |

A first line that names the columns (`text` or `sentence`, and `label`) is a heading, and says
which is which. A label is one of the model's by name, or its number from 0 where no name is.

What it refuses: files of another kind, lines without a text or a label, labels that the model
does not have. Errors name the file and the line and hold nothing of either.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from compiler.bundling.texts import (
    MAX_BYTES,
    MIN_LINES,
    Texts,
    built_in_texts,
    read_texts,
)
from compiler.errors import QuantizationError, SourceError
from compiler.files import ANYWHERE, read_text

_TEXT: Final = ("text", "sentence")
_LABEL: Final = "label"


def read_labelled(path: Path) -> Texts:
    """Return the texts of a file with the labels as they are written there.

    Raises:
        SourceError: missing, too large, of another kind, or a line has no text or no label.
        QuantizationError: fewer than MIN_LINES texts.
    """
    content = read_text(path, MAX_BYTES, ANYWHERE)
    readers = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(f"{path}: labelled texts come as .tsv, .csv or .jsonl")
    lines, labels = [], []
    for number, text, label in reader(path, content):
        # A text is one line for whoever reads it on.
        lines.append(" ".join(text.splitlines()).strip())
        labels.append(label.strip())
        if not lines[-1] or not labels[-1]:
            raise SourceError(f"{path}:{number}: needs a text and its label")
    if len(lines) < MIN_LINES:
        raise QuantizationError(
            f"{path}: is too short: {len(lines)} labelled texts, at least {MIN_LINES} are needed"
        )
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Texts(tuple(lines), digest, False, tuple(labels))


def texts_of(calibration: Path | None, labelled: Path | None) -> Texts:
    """Return the texts that a command was given, or the built-in ones.

    Raises:
        SourceError, QuantizationError: as `read_texts` and `read_labelled`; or both were given.
    """
    if labelled is not None:
        if calibration is not None:
            raise SourceError("give texts or labelled texts, not both: either is judged on")
        return read_labelled(labelled)
    return built_in_texts() if calibration is None else read_texts(calibration)


def label_numbers(texts: Texts, names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the class of each text, or None where they have no labels.

    Args:
        texts: as `read_labelled` returns them.
        names: of the model's classes, in order; none where it is no classifier.

    Raises:
        SourceError: the model has no classes, or not that one; names the text by its number.
    """
    if texts.labels is None:
        return None
    if not names:
        raise SourceError("--labelled: the model is no classifier; it has no labels to compare")
    known = {str(number): number for number in range(len(names))}
    known |= {name: number for number, name in enumerate(names)}
    for number, label in enumerate(texts.labels, 1):
        if label not in known:
            raise SourceError(
                f"--labelled: the label of text {number} is none of the model's "
                f"({', '.join(names[:20])}{', …' if len(names) > 20 else ''})"
            )
    return tuple(known[label] for label in texts.labels)


def _tsv(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    rows = (line.removesuffix("\r").split("\t") for line in content.split("\n"))
    return _columns(path, rows)


def _csv(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    try:
        yield from _columns(path, csv.reader(io.StringIO(content, newline=""), strict=True))
    except csv.Error as error:
        raise SourceError(f"{path}: is not CSV: {error}") from error


def _columns(path: Path, rows: Iterator[list[str]]) -> Iterator[tuple[int, str, str]]:
    """Return row number, text and label of each row that is not empty."""
    text, label = 0, 1
    for number, row in enumerate(rows, 1):
        if not any(field.strip() for field in row):
            continue
        names = [field.strip().lower() for field in row]
        if number == 1 and _LABEL in names and any(name in names for name in _TEXT):
            text = next(names.index(name) for name in _TEXT if name in names)
            label = names.index(_LABEL)
            continue
        if len(row) <= max(text, label):
            raise SourceError(f"{path}:{number}: needs a text and its label")
        yield number, row[text], row[label]


def _jsonl(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise SourceError(f"{path}:{number}: is no JSON object")
        text = next((value[name] for name in _TEXT if name in value), None)
        label = value.get(_LABEL)
        if not isinstance(text, str) or isinstance(label, bool) or not isinstance(label, str | int):
            raise SourceError(f"{path}:{number}: needs a text and its label")
        try:
            f"{text}{label}".encode()
        except UnicodeEncodeError:
            # JSON can escape half of a surrogate pair; no text holds one.
            raise SourceError(f"{path}:{number}: holds what is no Unicode text") from None
        yield number, text, str(label)
