"""`casemate generate`: continue a prompt, streaming to the terminal."""

from __future__ import annotations

import time
from typing import Any

import click

from casemate.cli.connection import Connection, connected, connection_options, text_argument
from casemate.cli.output import echo_text, emit, json_option
from casemate.cli.sampling import about, keywords, sampling_options, shown_tokens
from security.errors import CasemateError


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@click.option("--logprobs", is_flag=True, help="Report each token's log-probability.")
@click.option("--top-logprobs", type=click.IntRange(0, 5), default=0, help="And alternatives.")
@sampling_options
@connection_options
@json_option
def command(
    connection: Connection,
    model: str,
    prompt: str,
    version: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT with MODEL; "-" reads the prompt from standard input.

    \b
    Example:
      casemate generate gemma-3-270m "The lighthouse" --max-tokens 40 --temperature 0
    """
    text = text_argument(prompt)
    started = time.monotonic()
    first: float | None = None
    with connected(connection) as client:
        with client.generate(model, text, version=version, **keywords(options)) as stream:
            try:
                for piece in stream:
                    first = first if first is not None else time.monotonic() - started
                    if not as_json:
                        echo_text(piece.text)
            except CasemateError:
                if first is not None and not as_json:
                    click.echo()  # what went wrong goes on a line of its own
                raise
        done = stream.completion
    seconds = time.monotonic() - started
    data = {
        "text": done.text,
        "finish_reason": done.finish_reason,
        **about(done.answered, done.usage),
        "seconds": round(seconds, 3),
        "seconds_to_first_token": None if first is None else round(first, 3),
    }
    if options["logprobs"]:
        data["tokens"] = shown_tokens(done.tokens)
    emit(as_json, data, _summary)


def _summary(data: dict[str, Any]) -> None:
    """End the streamed line; say on stderr how it went, so that stdout is the text alone."""
    click.echo()
    for token in data.get("tokens", ()):
        click.echo(f"{token['logprob']:9.4f}  {token['token']!r}", err=True)
    count = data["usage"]["completion_tokens"]
    click.echo(
        f"[{count} tokens in {data['seconds']:.2f} s, {data['finish_reason']}; "
        f"{data['model']} {data['version']}, request {data['request_id']}]",
        err=True,
    )
