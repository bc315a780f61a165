"""`casemate init`: create a trust domain.

What it refuses: a folder that is not empty. It makes everything or nothing, and
prints no key and no passphrase.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.output import emit, json_option

# The log's origin is made from it and stands in every receipt, four times.
MAX_TRUST_DOMAIN_CHARS = 48
DEFAULT_HOSTS = ("localhost", "127.0.0.1")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--trust-domain",
    default="casemate.internal",
    show_default=True,
    help="Name of the trust domain, the first part of every identity.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="DNS name or IP address that clients use; repeat it. [default: localhost, 127.0.0.1]",
)
@click.option("--name", default="casemate", show_default=True, help="Name of the appliance.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Encrypt the root key with the passphrase in this file (mode 0600, 15 bytes or more).",
)
@json_option
def command(
    *,
    folder: Path,
    trust_domain: str,
    hosts: tuple[str, ...],
    name: str,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Create a trust domain in DIR: authority, keys, policy and configuration.

    DIR must not exist or be empty. All of it is made, or nothing.

    \b
    Example:
      casemate init site --trust-domain plant7.example --host edge1.plant7.example
    """
    from casemate.cli import templates
    from security.errors import UsageError
    from security.identity.creation import OPERATOR, Plan, create_trust_domain
    from security.keys import read_passphrase

    if len(trust_domain) > MAX_TRUST_DOMAIN_CHARS:
        raise UsageError(f"a trust domain's name has at most {MAX_TRUST_DOMAIN_CHARS} characters")
    hosts = hosts or DEFAULT_HOSTS
    server_name = preferred_host(hosts)
    client = templates.client_text(templates.DEFAULT_LISTEN, server_name, trust_domain)
    plan = Plan(
        trust_domain=trust_domain,
        name=name,
        hosts=hosts,
        origin=templates.log_origin(trust_domain),
        passphrase=read_passphrase(passphrase_file) if passphrase_file else None,
        files={
            "casemate.toml": templates.config_text(name, trust_domain),
            "policy.toml": templates.POLICY,
        },
        client_files={"client.toml": client.encode()},
    )
    layout = create_trust_domain(folder, plan)
    emit(
        as_json,
        {
            "folder": str(layout.folder),
            "trust_domain": trust_domain,
            "appliance": f"spiffe://{trust_domain}/appliance/{name}",
            "hosts": list(hosts),
            "operator": str(layout.identity(OPERATOR)),
            "root_key": str(layout.root_key),
            "root_key_encrypted": plan.passphrase is not None,
            "signing_keys": str(layout.signing),
        },
        _render,
    )


def preferred_host(hosts: tuple[str, ...] | list[str]) -> str:
    """Return what clients check the certificate against: a DNS name rather than an address."""
    import ipaddress

    for host in hosts:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host
    return hosts[0]


def _render(data: dict[str, Any]) -> None:
    folder = click.format_filename(data["folder"])
    root = "encrypted" if data["root_key_encrypted"] else "NOT encrypted, mode 0600"
    lines = [
        f"Created the trust domain {data['trust_domain']} in {folder}",
        "",
        "  authority/    root key, issuing key, ledger of identities",
        "  trust/        what the appliance trusts: roots, revocations, signers, log keys",
        f"  server/       certificate and key for {', '.join(data['hosts'])}",
        "  log/          keys of the audit log",
        "  signing/      keys that sign models, as 'release'",
        "  identities/   operator: the first client",
        "  casemate.toml, policy.toml",
        "",
        "Take offline, now or before this machine serves anybody:",
        f"  authority/root.key  ({root})",
        "                      needed only to rotate; keep two copies in a safe",
        "  signing/            needed only where models are signed",
        "",
        "Next:",
        f"  casemate identity issue camera-1 --domain {folder}",
        f"  casemate sign BUNDLE --keys {folder}/signing    # once you have made a bundle",
        f"  casemate serve --config {folder}/casemate.toml",
    ]
    click.echo("\n".join(lines))
