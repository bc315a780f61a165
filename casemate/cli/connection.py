"""What every command that calls an appliance shares: who calls, whom, and for how long.

The identity is --identity, or CASEMATE_IDENTITY, or ./identities/operator where that
is a folder. Ctrl-C cancels the call on the appliance too and exits with 130.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from security.errors import UsageError

if TYPE_CHECKING:
    from casemate.client.sync import Client

DEFAULT_IDENTITY = Path("identities/operator")
EXIT_INTERRUPTED = 130
MAX_STDIN_BYTES = 16 << 20

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Connection:
    """The options of `connection_options`, as one value."""

    identity: Path | None
    target: str | None
    timeout_seconds: float
    receipt: Path | None = None


def connection_options(function: F) -> F:
    """Add --identity, --target, --timeout and --receipt; they arrive as `connection`."""

    @click.option(
        "--identity",
        type=click.Path(path_type=Path),
        envvar="CASEMATE_IDENTITY",
        metavar="DIR",
        help="Identity folder. [env: CASEMATE_IDENTITY; default: ./identities/operator]",
    )
    @click.option("--target", metavar="HOST:PORT", help="Instead of the identity's own target.")
    @click.option(
        "--timeout",
        "timeout_seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help="Deadline of the call in seconds.",
    )
    @click.option(
        "--receipt",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Save the receipt here; check it offline with 'casemate receipt verify'.",
    )
    @click.pass_context
    def wrapped(
        ctx: click.Context,
        /,
        identity: Path | None,
        target: str | None,
        timeout_seconds: float,
        receipt: Path | None,
        **rest: Any,
    ) -> Any:
        connection = Connection(identity, target, timeout_seconds, receipt)
        return ctx.invoke(function, connection=connection, **rest)

    wrapped.__name__ = function.__name__
    wrapped.__doc__ = function.__doc__
    # Options that were declared below this decorator stay declared.
    wrapped.__click_params__ = [  # type: ignore[attr-defined]
        *getattr(function, "__click_params__", []),
        *getattr(wrapped, "__click_params__", []),
    ]
    return wrapped  # type: ignore[return-value]


@contextmanager
def connected(connection: Connection) -> Iterator[Client]:
    """Open a client; close it at the end, and exit with 130 on Ctrl-C.

    Raises:
        UsageError: no identity is given and there is no default one.
    """
    from casemate.client.core import ClientConfig
    from casemate.client.sync import Client

    sink = None if connection.receipt is None else _saver(connection.receipt)
    with (
        interruptible(),
        Client.from_identity(
            identity_folder(connection.identity),
            target=connection.target,
            receipts=sink,
            config=ClientConfig(timeout_seconds=connection.timeout_seconds),
        ) as client,
    ):
        yield client


def identity_folder(given: Path | None) -> Path:
    """Return the identity folder to use."""
    if given is not None:
        return given
    if DEFAULT_IDENTITY.is_dir():
        return DEFAULT_IDENTITY
    raise UsageError(
        "no identity: give --identity DIR or set CASEMATE_IDENTITY to a folder made by "
        f"'casemate identity issue' (there is no ./{DEFAULT_IDENTITY} here)"
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130, without a trace."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)
        sys.exit(EXIT_INTERRUPTED)


def text_argument(value: str) -> str:
    """Return a text argument; "-" reads standard input.

    Raises:
        UsageError: the input is too long or not UTF-8.
    """
    if value != "-":
        return value
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise UsageError(f"standard input is over {MAX_STDIN_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not valid UTF-8") from error


def _saver(path: Path) -> Callable[[str, bytes], None]:
    """Return a receipt sink that writes one file."""

    def save(_request_id: str, receipt: bytes) -> None:
        from security.files import write_atomic

        try:
            write_atomic(path, receipt, 0o600)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    return save
