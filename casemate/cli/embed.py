"""`casemate embed`: vectors of texts, or texts ranked by similarity to a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

from casemate.cli.connection import Connection, connected, connection_options, text_argument
from casemate.cli.output import emit, json_option, table
from casemate.cli.sampling import about


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--rank", "query", metavar="QUERY", help="Rank the texts by similarity to this.")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@connection_options
@json_option
def command(
    *,
    connection: Connection,
    model: str,
    texts: tuple[str, ...],
    query: str | None,
    version: str,
    as_json: bool,
) -> None:
    """Embed each TEXT; with --rank, sort them by cosine similarity to QUERY.

    \b
    Example:
      casemate embed all-minilm-l6-v2 "A boat." "A cat." "A ship." --rank "sailing"
    """
    read = [text_argument(text) for text in texts]
    asked = read if query is None else [query, *read]
    with connected(connection) as client:
        result = client.embed(model, asked, version=version)
    data: dict[str, Any] = about(result.answered, result.usage)
    if query is None:
        data["embeddings"] = [list(vector) for vector in result.vectors]
        emit(as_json, data, _render_vectors)
        return
    target, *others = result.vectors
    ranked = [
        {"similarity": cosine(target, vector), "index": index, "text": text}
        for index, (vector, text) in enumerate(zip(others, read, strict=True))
    ]
    data["ranking"] = sorted(ranked, key=lambda row: -float(str(row["similarity"])))
    emit(as_json, data, _render_ranking)


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors; 0 when either has no length."""
    norm = math.hypot(*left) * math.hypot(*right)
    return sum(a * b for a, b in zip(left, right, strict=True)) / norm if norm else 0.0


def _render_vectors(data: dict[str, Any]) -> None:
    for vector in data["embeddings"]:
        head = ", ".join(f"{value:+.4f}" for value in vector[:6])
        click.echo(f"[{head}{', ...' if len(vector) > 6 else ''}]  {len(vector)} dimensions")


def _render_ranking(data: dict[str, Any]) -> None:
    table(
        ["similarity", "text"],
        [[f"{row['similarity']:.4f}", row["text"]] for row in data["ranking"]],
    )
