"""How every command prints: a result for a person, or the same result as JSON.

A result goes to stdout, once, at the end; everything else (progress, warnings)
goes to stderr, so that `casemate ... --json | jq` always works. Invariants: with
--json stdout holds exactly one JSON document; progress is drawn only on a
terminal (a log gets a plain line now and then from the commands that ask for it); rich
is imported only when something is drawn with it. What others chose
(names, versions, details) reaches no terminal raw: see visible.py.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from casemate.cli.visible import json_text, one_line, visible

if TYPE_CHECKING:
    from rich.console import Console

# Work that ends sooner than this shows no progress line.
PROGRESS_AFTER_SECONDS = 2.0
_FRAME_SECONDS = 0.25
# Without a terminal, plain lines are so far apart.
_LINE_SECONDS = 15.0
_FRAMES = "|/-\\"

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Add `--json` to a command; it arrives as the parameter `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as one JSON document."
    )(function)


def emit(
    as_json: bool, data: dict[str, Any], render: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """Print a result.

    Args:
        as_json: print `data` as one indented JSON document and nothing else.
        data: the result; JSON types only.
        render: prints `data` for a person; without one, "key  value" lines are printed.
    """
    if as_json:
        click.echo(json_text(data, indent=2))
    elif render is not None:
        render(data)
    else:
        fields(data)


def fields(data: dict[str, Any]) -> None:
    """Print a flat result as aligned "key  value" lines."""
    width = max((len(key) for key in data), default=0)
    for key, value in data.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        text = "-" if shown is None else one_line(str(shown))
        click.echo(f"{key.replace('_', ' '):<{width}}  {text}")


def table(headings: list[str], rows: list[list[str]]) -> None:
    """Print rows under headings; plain text, aligned, no colour, so that it can be grepped."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [
        max(len(heading), *(len(row[column]) for row in rows)) if rows else len(heading)
        for column, heading in enumerate(headings)
    ]
    for line in [[heading.upper() for heading in headings], *rows]:
        padded = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(padded).rstrip())


def counted(number: int, one: str, many: str) -> str:
    """Return "1 entry", "2 entries"."""
    return f"{number:,} {one if number == 1 else many}"


def console(*, stderr: bool = False) -> Console:
    """Return a rich console on stdout or stderr; imports rich on the first call."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def echo_text(text: str) -> None:
    """Print a model's text, without a line end.

    A terminal obeys escape sequences, and a model writes what it likes: on a terminal
    control characters other than tab and line feed are shown, not sent. A pipe gets
    the text as it is.
    """
    if sys.stdout.isatty():
        text = visible(text)
    click.echo(text, nl=False)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"warning: {visible(message)}", err=True)


@contextmanager
def progress(label: str, *, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a line on stderr while work of more than two seconds runs.

    Yields a function that replaces the label ("verifying", then "copying").
    Without a terminal nothing is written at all, unless `lines` asks for what a log can
    hold: a plain line after two seconds, and one every quarter of a minute.
    """
    current = [label]

    def relabel(text: str) -> None:
        current[0] = text

    drawn = sys.stderr.isatty()
    if not drawn and not lines:
        yield relabel
        return
    done = threading.Event()
    target = _paint if drawn else _print
    painter = threading.Thread(target=target, args=(current, done), daemon=True)
    painter.start()
    try:
        yield relabel
    finally:
        done.set()
        painter.join()


def _print(current: list[str], done: threading.Event) -> None:
    """Print the label and the seconds so far, now and then, until `done`."""
    started = time.monotonic()
    wait = PROGRESS_AFTER_SECONDS
    while not done.wait(wait):
        click.echo(f"{current[0]} ({time.monotonic() - started:.0f} s)", err=True)
        wait = _LINE_SECONDS


def _paint(current: list[str], done: threading.Event) -> None:
    """Redraw the progress line until `done`; leave an empty line behind."""
    started = time.monotonic()
    if done.wait(PROGRESS_AFTER_SECONDS):
        return
    frame = 0
    while not done.wait(_FRAME_SECONDS):
        seconds = time.monotonic() - started
        line = f"\r\x1b[K{_FRAMES[frame % len(_FRAMES)]} {current[0]} ({seconds:.0f} s)"
        sys.stderr.write(line)
        sys.stderr.flush()
        frame += 1
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
