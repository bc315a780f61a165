"""`casemate classify`: label probabilities of texts."""

from __future__ import annotations

from typing import Any

import click

from casemate.cli.connection import Connection, connected, connection_options, text_argument
from casemate.cli.output import emit, json_option, table
from casemate.cli.sampling import about


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@connection_options
@json_option
def command(
    connection: Connection, model: str, texts: tuple[str, ...], version: str, as_json: bool
) -> None:
    """Classify each TEXT; "-" reads standard input.

    \b
    Example:
      casemate classify sentiment "I liked it." "I did not."
    """
    read = [text_argument(text) for text in texts]
    with connected(connection) as client:
        result = client.classify(model, read, version=version)
    data = {
        "classifications": [
            [{"label": label.label, "score": label.score} for label in labels]
            for labels in result.labels
        ],
        **about(result.answered, result.usage),
    }
    emit(as_json, data, lambda shown: _render(shown, read))


def _render(data: dict[str, Any], texts: list[str]) -> None:
    rows = [
        [labels[0]["label"], f"{labels[0]['score']:.3f}", " ".join(text.split())[:70]]
        for labels, text in zip(data["classifications"], texts, strict=True)
        if labels
    ]
    table(["label", "score", "text"], rows)
