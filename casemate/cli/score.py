"""`casemate score`: how likely a model finds a text."""

from __future__ import annotations

import math
from typing import Any

import click

from casemate.cli.connection import Connection, connected, connection_options, text_argument
from casemate.cli.output import emit, json_option, table
from casemate.cli.sampling import about, shown_tokens


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@click.option("--tokens", is_flag=True, help="Show every token.")
@connection_options
@json_option
def command(
    *,
    connection: Connection,
    model: str,
    texts: tuple[str, ...],
    version: str,
    tokens: bool,
    as_json: bool,
) -> None:
    """Log-probability (natural logarithm) of each TEXT; "-" reads standard input.

    \b
    Example:
      casemate score gemma-3-270m "The sky is blue." "The sky is cheese."
    """
    read = [text_argument(text) for text in texts]
    with connected(connection) as client:
        result = client.score(model, read, version=version)
    data = {
        "scores": [
            {
                "logprob": score.logprob,
                "tokens": len(score.tokens),
                "perplexity": _perplexity(score.logprob, len(score.tokens)),
                "detail": shown_tokens(score.tokens),
            }
            for score in result.scores
        ],
        **about(result.answered, result.usage),
    }
    emit(as_json, data, lambda shown: _render(shown, read, tokens))


def _perplexity(logprob: float, count: int) -> float | None:
    """Return exp of the mean negative log-probability; None where that is no number."""
    if not count:
        return None
    value = math.exp(min(-logprob / count, 700.0))
    return value if math.isfinite(value) else None


def _render(data: dict[str, Any], texts: list[str], tokens: bool) -> None:
    rows = [
        [f"{each['logprob']:.3f}", str(each["tokens"]), _number(each["perplexity"]), _short(text)]
        for each, text in zip(data["scores"], texts, strict=True)
    ]
    table(["logprob", "tokens", "perplexity", "text"], rows)
    if tokens:
        for each in data["scores"]:
            click.echo()
            for token in each["detail"]:
                click.echo(f"{token['logprob']:9.4f}  {token['token']!r}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"
