"""`casemate identity`: issue, list and revoke client identities.

Runs where the authority's folder is; prints no key. A client that makes its own key
sends a signing request, so that the key never leaves it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from casemate.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from security.identity.domain import TrustDomain
    from security.identity.ledger import LedgerEntry

F = TypeVar("F", bound="Callable[..., Any]")


def domain_option(function: F) -> F:
    """Add `--domain DIR`, the trust domain's folder, by default the current one."""
    return click.option(
        "--domain",
        "folder",
        type=click.Path(path_type=Path),
        default=Path(),
        envvar="CASEMATE_DOMAIN",
        show_envvar=True,
        help="Folder of the trust domain, made by `casemate init`. [default: here]",
    )(function)


@click.group()
def command() -> None:
    """Issue, list and revoke client identities.

    \b
    Example:
      casemate identity issue camera-7 --role device --domain site
    """


@command.command()
@click.argument("name")
@click.option("--role", default="device", show_default=True, help="A role that policy.toml names.")
@click.option(
    "--csr",
    type=click.Path(path_type=Path),
    help="Certify the key of this PEM signing request; no private key is made here.",
)
@click.option("--days", type=click.IntRange(min=1), help="Days until it expires. [default: 90]")
@click.option(
    "--renew", is_flag=True, help="Allow it while NAME is active; the old one runs out by itself."
)
@click.option("--force", is_flag=True, help="Allow a role that policy.toml does not name yet.")
@domain_option
@json_option
def issue(
    *,
    name: str,
    role: str,
    csr: Path | None,
    days: int | None,
    renew: bool,
    force: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Issue an identity into identities/NAME, ready to be carried to the client.

    \b
    Examples:
      casemate identity issue camera-7
      casemate identity issue audit-desk --role auditor --days 30
      openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \\
          -subj /CN=pump-3 -keyout client.key -out pump-3.csr     # on the device
      casemate identity issue pump-3 --csr pump-3.csr
    """
    from security.errors import UsageError
    from security.files import read_bounded
    from security.identity.authority import MAX_REQUEST_BYTES
    from security.identity.domain import TrustDomain

    domain = TrustDomain(folder)
    roles = _policy_roles(domain)
    if role not in roles and roles and not force:
        raise UsageError(
            f"policy.toml has no [roles.{role}], so {name} could call nothing; it names "
            f"{', '.join(sorted(roles))}. Add the role first, or give --force"
        )
    request = read_bounded(csr, MAX_REQUEST_BYTES) if csr else None
    extra = client_files(domain)
    issued = domain.issue(name, role, request=request, days=days, renew=renew, extra_files=extra)
    data = {
        **_shown(issued.entry),
        "folder": str(issued.folder),
        "private_key": None if request else str(issued.folder / "client.key"),
        "role_in_policy": role in roles,
    }
    emit(as_json, data, _render_issued)


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also expired and revoked ones.")
@domain_option
@json_option
def list_identities(everything: bool, folder: Path, as_json: bool) -> None:
    """List identities: the active ones, or all that were ever issued.

    \b
    Example:
      casemate identity list --all --domain site
    """
    from security.identity.domain import TrustDomain

    rows = [_shown(entry) for entry in TrustDomain(folder).entries()]
    rows = [row for row in rows if everything or row["state"] == "active"]
    emit(as_json, {"identities": rows}, _render_list)


@command.command()
@click.argument("name", required=False)
@click.option(
    "--refresh", is_flag=True, help="Revoke nobody; make a new list that counts from now on."
)
@domain_option
@json_option
def revoke(name: str | None, refresh: bool, folder: Path, as_json: bool) -> None:
    """Revoke every active certificate of NAME.

    A running appliance refuses it from the next call on; open streams end within a second.

    \b
    Examples:
      casemate identity revoke camera-7 --domain site
      casemate identity revoke --refresh
    """
    from security.errors import UsageError
    from security.identity.domain import TrustDomain

    if (name is None) == (not refresh):
        raise click.UsageError("give a NAME to revoke, or --refresh")
    domain = TrustDomain(folder)
    done = domain.refresh_revocations() if name is None else domain.revoke(name)
    if name is not None and not done.entries:
        raise UsageError(
            f"{name} was revoked before: nothing was revoked now; the list was made anew"
        )
    data = {
        "revoked": [_shown(entry) for entry in done.entries],
        "revoked_in_total": done.total,
        "list": str(domain.layout.revocations),
    }
    emit(as_json, data, _render_revoked)


def client_files(domain: TrustDomain) -> dict[str, bytes]:
    """Return the public files of a client's folder beside its certificate."""
    from casemate.cli.init import preferred_host
    from casemate.cli.templates import DEFAULT_LISTEN, client_text
    from security.files import read_bounded
    from security.identity.domain import server_hosts
    from security.identity.pem import load_certificates

    layout = domain.layout
    hosts = server_hosts(load_certificates(layout.server_certificate)[0])
    server_name = preferred_host(hosts)
    listen = _table(layout.config, "appliance").get("listen", DEFAULT_LISTEN)
    address, _, port = str(listen).rpartition(":")
    # An appliance that listens everywhere is reached by its name.
    everywhere = address in {"0.0.0.0", "[::]", ""}  # noqa: S104
    target = f"{server_name}:{port}" if everywhere else str(listen)
    return {
        "client.toml": client_text(target, server_name, domain.name).encode(),
        "log.vkeys": read_bounded(layout.log_vkeys),
    }


def _policy_roles(domain: TrustDomain) -> set[str]:
    return set(_table(domain.layout.policy, "roles"))


def _table(path: Path, name: str) -> dict[str, Any]:
    """Read one table of a TOML file of the trust domain; empty if it has none."""
    from security.errors import UsageError
    from security.files import read_bounded

    try:
        value = tomllib.loads(read_bounded(path).decode()).get(name, {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return value if isinstance(value, dict) else {}


def _shown(entry: LedgerEntry) -> dict[str, Any]:
    from dataclasses import asdict

    from security.identity.profile import utc_now

    return {**asdict(entry), "state": entry.state(utc_now())}


def _render_issued(data: dict[str, Any]) -> None:
    click.echo(f"Issued {data['spiffe_id']} until {data['not_after']}")
    click.echo(f"  serial  {data['serial']}")
    click.echo(f"  folder  {data['folder']}")
    if data["private_key"]:
        click.echo("Carry the folder to the client over a safe path, then delete it here.")
    else:
        click.echo("Carry the folder to the client and put its own client.key in it (mode 0600).")
    if not data["role_in_policy"]:
        click.echo(
            f"warning: policy.toml has no [roles.{data['role']}], so it may call nothing yet",
            err=True,
        )


def _render_list(data: dict[str, Any]) -> None:
    rows = [
        [row["name"], row["role"], row["state"], row["not_after"], row["serial"]]
        for row in data["identities"]
    ]
    table(["name", "role", "state", "not after", "serial"], rows)


def _render_revoked(data: dict[str, Any]) -> None:
    for row in data["revoked"]:
        click.echo(f"Revoked {row['spiffe_id']}, serial {row['serial']}")
    if not data["revoked"]:
        click.echo("No certificate was revoked now; the list was made anew.")
    click.echo(f"{data['list']} holds {data['revoked_in_total']}")
