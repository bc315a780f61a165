"""The texts that a compilation looks at: a user's file, or a few sentences of our own.

A user's file is UTF-8 with one text a line. What is in it goes into a tokenizer and nowhere
else: no log, no error and no record holds any of it but its digest and its number of lines.

The built-in sentences are enough to see that an encoder was not ruined (similarities of all
their pairs); they are no measure of a task.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from compiler.errors import QuantizationError
from compiler.files import ANYWHERE, read_text

MAX_BYTES: Final = 64 << 20
MIN_LINES: Final = 8

_SUBJECTS: Final = (
    "The night nurse", "A retired engineer", "The harbour pilot", "My neighbour's daughter",
    "The second witness", "An apprentice baker", "The committee", "A tired cyclist",
)  # fmt: skip
_ACTIONS: Final = (
    "checked the pressure of the old boiler twice before leaving.",
    "wrote a short letter of complaint about the delayed parcel.",
    "was delighted with how quickly the fever went down.",
    "could not explain why the second measurement was so different.",
    "prefers tea without sugar, and always has.",
    "sold the orchard in autumn and moved closer to the sea.",
    "found the film far too long and not very funny.",
    "asks whether the contract can be cancelled within thirty days.",
)


@dataclass(frozen=True, slots=True)
class Texts:
    """Lines of text with where they came from.

    Attributes:
        lines: the texts, in order, none empty.
        sha256: of the file, or of the built-in sentences.
        built_in: whether they are ours.
        labels: of each text, as a file of labelled texts writes it; or None.
    """

    lines: tuple[str, ...] = field(repr=False)
    sha256: str
    built_in: bool
    labels: tuple[str, ...] | None = field(default=None, repr=False)


def built_in_texts() -> Texts:
    """Return 64 sentences, each subject with each action."""
    lines = tuple(f"{subject} {action}" for subject in _SUBJECTS for action in _ACTIONS)
    return Texts(lines, hashlib.sha256("\n".join(lines).encode()).hexdigest(), True)


def read_texts(path: Path) -> Texts:
    """Return the lines of a file.

    Raises:
        SourceError: missing, too large, or not UTF-8.
        QuantizationError: fewer than MIN_LINES texts.
    """
    text = read_text(path, MAX_BYTES, ANYWHERE)
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(lines) < MIN_LINES:
        raise QuantizationError(
            f"{path}: is too short: {len(lines)} lines with text, at least {MIN_LINES} are needed "
            "to tell a good model from a ruined one"
        )
    return Texts(lines, hashlib.sha256(text.encode()).hexdigest(), False)
