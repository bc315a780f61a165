"""`casemate chat`: a conversation with a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.connection import (
    Connection,
    connected,
    connection_options,
    interruptible,
    text_argument,
)
from casemate.cli.output import echo_text, emit, json_option
from casemate.cli.sampling import about, keywords, sampling_options
from casemate.cli.visible import visible
from security.errors import CasemateError, UsageError

if TYPE_CHECKING:
    from casemate.client.sync import Client
    from casemate.client.types import Completion, Message

_HELP = "/reset forgets the conversation, /quit leaves (so does Ctrl-D)"


@click.command()
@click.argument("model")
@click.option("--message", help='Ask this one thing and leave; "-" reads standard input.')
@click.option("--system", help="The system message.")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@sampling_options
@connection_options
@json_option
def command(
    *,
    connection: Connection,
    model: str,
    message: str | None,
    system: str | None,
    version: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Talk to MODEL; the conversation lives in this process only.

    \b
    Examples:
      casemate chat gemma-3-270m
      casemate chat gemma-3-270m --message "Name three rivers." --json
    """
    if as_json and message is None:
        raise UsageError("--json needs --message: a conversation is not one document")
    with connected(connection) as client:
        _require_template(client, model, version)
        talk = Talk(client, model, version, system, options)
        if message is not None:
            done = talk.say(text_argument(message), quiet=as_json)
            data = {
                "text": done.text,
                "finish_reason": done.finish_reason,
                **about(done.answered, done.usage),
            }
            emit(as_json, data, lambda _: click.echo())
            return
        talk.run()


def _require_template(client: Client, model: str, version: str) -> None:
    """Refuse a model that cannot chat, before anything is typed.

    Raises:
        UsageError: its bundle has no chat template.
    """
    import json

    from casemate.client.errors import Refused

    try:
        manifest = json.loads(client.describe(model, version=version).manifest_json)
    except Refused:
        return  # the policy may allow chatting without describing: the answer will tell
    if manifest.get("chat_template") is None:
        raise UsageError(
            f"{model} has no chat template, so it cannot chat: continue a text with "
            f"'casemate generate {model} TEXT'"
        )


class Talk:
    """One conversation: its history, and how a turn is taken."""

    def __init__(
        self,
        client: Client,
        model: str,
        version: str,
        system: str | None,
        options: dict[str, Any],
    ) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._system = system
        self._options = options
        self._messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget all but the system message."""
        from casemate.client.types import Message

        self._messages = [] if self._system is None else [Message("system", self._system)]

    def say(self, text: str, *, quiet: bool = False) -> Completion:
        """Take a turn; a turn that fails or is interrupted leaves the history as it was."""
        from casemate.client.types import Message

        asked = [*self._messages, Message("user", text)]
        chosen = keywords(self._options)
        with self._client.chat(self._model, asked, version=self._version, **chosen) as stream:
            for piece in stream:
                if not quiet:
                    echo_text(piece.text)
        self._messages = [*asked, Message("assistant", stream.completion.text)]
        return stream.completion

    def run(self) -> None:
        """Read and answer until the end; an error in a turn does not end the talk."""
        if sys.stdin.isatty():
            import readline  # noqa: F401 - gives input() line editing and history

            click.echo(f"{self._model}: {_HELP}", err=True)
        while True:
            with interruptible():
                line = _read_line()
            if line is None or line == "/quit":
                return
            if line == "/reset":
                self.reset()
                click.echo("forgotten", err=True)
            elif line.startswith("/"):
                click.echo(_HELP, err=True)
            elif line:
                self._turn(line)

    def _turn(self, line: str) -> None:
        try:
            self.say(line)
            click.echo()
        except CasemateError as error:
            click.echo(f"\nerror: {visible(str(error))}", err=True)
        except KeyboardInterrupt:
            click.echo("\n[interrupted]", err=True)


def _read_line() -> str | None:
    """Return the next line without blanks around it; None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
