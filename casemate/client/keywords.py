"""The keywords of `generate` and `chat`, typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from casemate.client.generation import Options
from security.errors import UsageError


class GenerateKeywords(TypedDict, total=False):
    """Same names and meanings as the fields of `Options`."""

    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    seed: int | None
    stop: Sequence[str]
    logprobs: bool
    top_logprobs: int


def options_from(keywords: GenerateKeywords) -> Options:
    """Return the options; a name that is unknown is a TypeError, as for any keyword."""
    return Options(**keywords)


def as_list(name: str, texts: Sequence[str]) -> Sequence[str]:
    """Refuse a lone text, which would be taken for a sequence of one-letter texts."""
    if isinstance(texts, str):
        raise UsageError(f"{name}: give a list of texts, not one text")
    return texts
