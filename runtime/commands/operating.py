"""What the operator's commands share: which appliance, and is it running?

The store's lock answers that: while an appliance runs it holds the lock, and the
command asks it over gRPC as the operator identity; otherwise the command takes the
lock itself and changes the store. So there is no moment at which both do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from security.errors import UsageError

if TYPE_CHECKING:
    from casemate.client.sync import Client
    from casemate.client.types import Operation
    from runtime.config import ApplianceConfig
    from runtime.store.store import Store

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Site:
    """The options of `site_options`, as one value."""

    config_path: Path
    identity: Path | None
    timeout_seconds: float

    def config(self) -> ApplianceConfig:
        """Read the appliance's configuration."""
        from runtime.config import load_config

        if not self.config_path.is_file():
            raise UsageError(
                f"there is no {self.config_path}: run this in the folder that 'casemate init' "
                "made, or give --config FILE"
            )
        return load_config(self.config_path)


def site_options(function: F) -> F:
    """Add --config, --identity and --timeout; they arrive as `site`."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="CASEMATE_CONFIG",
        default=Path("casemate.toml"),
        show_default=True,
        help="The appliance's configuration. [env: CASEMATE_CONFIG]",
    )
    @click.option(
        "--identity",
        type=click.Path(path_type=Path),
        envvar="CASEMATE_IDENTITY",
        metavar="DIR",
        help="Operator identity; default: identities/operator beside the configuration.",
    )
    @click.option(
        "--timeout",
        "timeout_seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=300.0,
        show_default=True,
        help="How long the appliance may take, in seconds.",
    )
    @click.pass_context
    def wrapped(
        ctx: click.Context,
        /,
        config_path: Path,
        identity: Path | None,
        timeout_seconds: float,
        **rest: Any,
    ) -> Any:
        return ctx.invoke(function, site=Site(config_path, identity, timeout_seconds), **rest)

    wrapped.__name__ = function.__name__
    wrapped.__doc__ = function.__doc__
    wrapped.__click_params__ = [  # type: ignore[attr-defined]
        *getattr(function, "__click_params__", []),
        *getattr(wrapped, "__click_params__", []),
    ]
    return wrapped  # type: ignore[return-value]


@contextmanager
def store_if_free(config: ApplianceConfig) -> Iterator[Store | None]:
    """Open the store, or yield None when a running appliance has it."""
    from runtime.store import Store, StoreLocked

    try:
        store = Store.open(config.store)
    except StoreLocked:
        yield None
        return
    with store:
        yield store


@contextmanager
def operator(site: Site) -> Iterator[Client]:
    """Connect to the running appliance as its operator."""
    from casemate.cli.connection import Connection, connected

    identity = site.identity or site.config_path.parent / "identities" / "operator"
    with connected(Connection(identity, None, site.timeout_seconds)) as client:
        yield client


def operation_data(done: Operation) -> dict[str, Any]:
    """Return what an operation changed, for --json."""
    from casemate.cli.models import version_data

    return {
        "model": done.model,
        **version_data(done.version),
        "probes_passed": done.probes_passed,
    }


def record_data(record: Any) -> dict[str, Any]:
    """Return a store's record in the same shape as `version_data`."""
    return {
        "version": record.version,
        "state": record.state.value,
        "ready": False,
        "bundle_digest": record.digest,
        "security_epoch": record.security_epoch,
        "since_ms": record.since_ms,
        "reason": record.reason,
        "privacy": None,  # a stored bundle is not opened to be listed
    }


def render_operation(data: dict[str, Any]) -> None:
    """Print what an operation changed, for a person."""
    passed = data.get("probes_passed")
    noun = "probe" if passed == 1 else "probes"
    probes = f" after {passed} {noun} passed" if passed else ""
    click.echo(f"{data['model']} {data['version']} is {data['state']}{probes}: {data['reason']}")
