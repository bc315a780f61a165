"""How well a vocabulary fits a text: figures only, never a word of the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.tokenization import Tokenizer

# Above this share of unknown words a report warns.
_MANY_UNKNOWN = 0.05


@dataclass(frozen=True, slots=True)
class VocabularyReport:
    """How a vocabulary fits a text.

    Words are what the tokenizer itself splits a text into before it looks for pieces.

    Attributes:
        wanted: entries that were asked for.
        reached: entries that there are.
        used: entries that occur in the text measured.
        words: words measured.
        tokens: tokens measured.
        out_of_vocabulary_rate: unknown tokens for each word.
        pieces_per_word: tokens for each word.
        bytes_per_token: UTF-8 bytes for each token.
        measured_on: "train" (a sample of it) or "validation".
        warnings: what a person should look at.
    """

    wanted: int
    reached: int
    used: int
    words: int
    tokens: int
    out_of_vocabulary_rate: float
    pieces_per_word: float
    bytes_per_token: float
    measured_on: str
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return dataclasses.asdict(self)


def measure_vocabulary(
    tokenizer: Tokenizer, texts: Sequence[str], *, wanted: int, measured_on: str
) -> VocabularyReport:
    """Measure how a vocabulary fits texts.

    Args:
        tokenizer: what to measure.
        texts: what to measure on, about a million characters; at least one token.
        wanted: entries that were asked for.
        measured_on: "train" or "validation".
    """
    unknown = tokenizer.special.unknown
    words = tokens = unknown_tokens = size = 0
    used: set[int] = set()
    # One by one: an encoding with offsets is some hundred times its text.
    for text in texts:
        encoding = tokenizer.raw.encode(text, add_special_tokens=False)
        ids = encoding.ids
        tokens += len(ids)
        words += len(set(encoding.word_ids))
        unknown_tokens += ids.count(unknown) if unknown is not None else 0
        used.update(ids)
        size += len(text.encode())
    rate = unknown_tokens / max(1, words)
    return VocabularyReport(
        wanted=wanted,
        reached=tokenizer.vocabulary_size,
        used=len(used),
        words=words,
        tokens=tokens,
        out_of_vocabulary_rate=rate,
        pieces_per_word=tokens / max(1, words),
        bytes_per_token=size / max(1, tokens),
        measured_on=measured_on,
        warnings=tuple(_warnings(wanted, tokenizer.vocabulary_size, rate, measured_on)),
    )


def _warnings(wanted: int, reached: int, rate: float, measured_on: str) -> list[str]:
    found = []
    if reached < wanted:
        found.append(f"{wanted} entries were asked for; the data supports {reached}")
    if rate > _MANY_UNKNOWN:
        found.append(
            f"{rate:.1%} of the words of {measured_on} are unknown; a larger vocabulary, a "
            "smaller minimum_count or byte-level BPE would have fewer"
        )
    return found
