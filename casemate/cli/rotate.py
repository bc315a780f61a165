"""`casemate rotate`: renew the server certificate, the issuing CA, or the root.

A running appliance takes the new files by itself. Rotating the root takes two
commands; between them the clients get their new files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.identity import domain_option
from casemate.cli.output import emit, json_option

_passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Passphrase of the root key, in a file of mode 0600.",
)


@click.group()
def command() -> None:
    """Renew the server certificate, the issuing CA, or the root.

    \b
    Example:
      casemate rotate server --domain site
    """


@command.command()
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="DNS name or IP address that clients use; repeat it. [default: as before]",
)
@domain_option
@json_option
def server(hosts: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Give the server a new key and certificate; open connections go on.

    \b
    Examples:
      casemate rotate server --domain site
      casemate rotate server --host edge1.plant7.example --host 10.0.0.7
    """
    from security.identity.domain import TrustDomain
    from security.identity.rotation import renew_server

    entry = renew_server(TrustDomain(folder), hosts or None)
    emit(
        as_json,
        {"spiffe_id": entry.spiffe_id, "serial": entry.serial, "not_after": entry.not_after},
    )


@command.command()
@_passphrase_option
@domain_option
@json_option
def issuing(passphrase_file: Path | None, folder: Path, as_json: bool) -> None:
    """Renew the issuing CA's certificate; needs the root key. What it issued stays valid.

    \b
    Example:
      casemate rotate issuing --passphrase-file root.passphrase --domain site
    """
    from security.identity.domain import TrustDomain
    from security.identity.profile import rfc3339, serial_hex
    from security.identity.rotation import renew_issuing

    certificate = renew_issuing(TrustDomain(folder), _passphrase(passphrase_file))
    emit(
        as_json,
        {
            "serial": serial_hex(certificate.serial_number),
            "not_after": rfc3339(certificate.not_valid_after_utc),
        },
    )


@command.command()
@click.option("--finish", is_flag=True, help="Drop the old root; every client has its new files.")
@_passphrase_option
@domain_option
@json_option
def root(finish: bool, passphrase_file: Path | None, folder: Path, as_json: bool) -> None:
    """Replace the root: first both are trusted, then, with --finish, the new one alone.

    The passphrase opens the present root key and encrypts the new one.

    \b
    Examples:
      casemate rotate root --passphrase-file root.passphrase --domain site
      casemate rotate root --finish --domain site
    """
    from security.identity.domain import TrustDomain
    from security.identity.rotation import finish_root, stage_root

    domain = TrustDomain(folder)
    done = finish_root(domain) if finish else stage_root(domain, _passphrase(passphrase_file))
    data = {
        "finished": finish,
        "old_root_sha256": done.old,
        "new_root_sha256": done.new,
        "identities": list(done.identities),
        "folder": str(folder),
    }
    emit(as_json, data, _render_root)


def _passphrase(path: Path | None) -> bytes | None:
    from security.keys import read_passphrase

    return read_passphrase(path) if path else None


def _render_root(data: dict[str, Any]) -> None:
    if data["finished"]:
        click.echo(f"Only the new root {data['new_root_sha256'][:16]} is trusted now.")
        click.echo("Take authority/root.key offline and destroy the copies of the old one.")
        return
    click.echo(f"Both roots are trusted: {data['old_root_sha256'][:16]} (old)")
    click.echo(f"                        {data['new_root_sha256'][:16]} (new)")
    click.echo("Next:")
    click.echo(
        "  1. carry roots.pem and client.crt of each of these from identities/ to its client:"
    )
    for name in data["identities"]:
        click.echo(f"       {name}")
    click.echo(f"  2. casemate rotate root --finish --domain {data['folder']}")
