"""The sampling options that `generate` and `chat` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from casemate.client.keywords import GenerateKeywords
    from casemate.client.types import Answered, Usage

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("--max-tokens", click.IntRange(1), "Most tokens to generate."),
    ("--temperature", click.FloatRange(0, 2), "0 is greedy."),
    ("--top-k", click.IntRange(0), "Draw from the k most likely tokens; 0 means all."),
    ("--top-p", click.FloatRange(0, 1, min_open=True), "Draw from the likeliest p of probability."),
    ("--min-p", click.FloatRange(0, 1, max_open=True), "Drop tokens below p times the likeliest."),
    ("--repetition-penalty", click.FloatRange(0, 2, min_open=True), "1 is neutral."),
    ("--presence-penalty", click.FloatRange(-2, 2), "0 is neutral."),
    ("--seed", click.IntRange(0), "Makes drawing repeatable."),
)


def sampling_options(function: F) -> F:
    """Add the sampling options; what is left out takes the bundle's signed default."""
    function = click.option(
        "--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable."
    )(function)
    for name, kind, explained in reversed(_OPTIONS):
        function = click.option(name, type=kind, default=None, help=explained)(function)
    return function


def keywords(options: dict[str, Any]) -> GenerateKeywords:
    """Return the options that were given, as keywords of `Client.generate`."""
    given: Any = {name: value for name, value in options.items() if value not in (None, ())}
    typed: GenerateKeywords = given
    return typed


def about(answered: Answered, usage: Usage) -> dict[str, Any]:
    """Return what an answer says about itself, for --json."""
    return {
        "model": answered.model,
        "version": answered.version,
        "bundle_digest": answered.bundle_digest,
        "request_id": answered.request_id,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    }


def shown_tokens(tokens: Any) -> list[dict[str, Any]]:
    """Return tokens for --json; bytes that are no whole characters show as replacements."""
    return [
        {
            "token": each.token.decode("utf-8", errors="replace"),
            "logprob": each.logprob,
            "alternatives": [
                {
                    "token": other.token.decode("utf-8", errors="replace"),
                    "logprob": other.logprob,
                }
                for other in each.alternatives
            ],
        }
        for each in tokens
    ]
