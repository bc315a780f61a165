"""`casemate models`: what an appliance serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.connection import Connection, connected, connection_options
from casemate.cli.output import emit, fields, json_option, table

if TYPE_CHECKING:
    from casemate.client.types import ModelInfo, VersionInfo


@click.group(invoke_without_command=True)
@connection_options
@json_option
@click.pass_context
def command(ctx: click.Context, connection: Connection, as_json: bool) -> None:
    """List the models this identity may use; 'models show NAME' describes one.

    \b
    Examples:
      casemate models
      casemate models show gemma-3-270m --json
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = connection
        return
    with connected(connection) as client:
        found = client.models()
    emit(as_json, {"models": [model_data(model) for model in found]}, render_models)


@command.command()
@click.argument("name")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@connection_options
@json_option
@click.pass_context
def show(
    ctx: click.Context, connection: Connection, name: str, version: str, as_json: bool
) -> None:
    """Describe model NAME: its versions, limits and signed manifest."""
    if connection.identity is None and isinstance(ctx.obj, Connection):
        connection = ctx.obj
    with connected(connection) as client:
        found = client.describe(name, version=version)
    data = {
        **model_data(found.model),
        "context_tokens": found.context_tokens,
        "max_sequences": found.max_sequences,
        "manifest": json.loads(found.manifest_json),
    }
    emit(as_json, data, _render_one)


def model_data(model: ModelInfo) -> dict[str, Any]:
    """Return a model for --json."""
    return {
        "name": model.name,
        "task": model.task,
        "versions": [version_data(version) for version in model.versions],
    }


def version_data(version: VersionInfo) -> dict[str, Any]:
    """Return a version for --json."""
    return {
        "version": version.version,
        "state": version.state,
        "ready": version.ready,
        "bundle_digest": version.bundle_digest,
        "security_epoch": version.security_epoch,
        "since_ms": version.since_ms,
        "reason": version.reason,
        "privacy": version.privacy and asdict(version.privacy),
        "variant": version.variant,
    }


def render_models(data: dict[str, Any]) -> None:
    """Print models and their versions as one table."""
    rows = [
        [
            model["name"],
            model["task"],
            version["version"],
            version["state"] + ("" if version["ready"] or not _loaded(version) else " (not ready)"),
            since(version["since_ms"]),
            version["bundle_digest"][:12],
            short_claim(version["privacy"]),
            version["reason"],
        ]
        for model in data["models"]
        for version in model["versions"]
    ]
    if not rows:
        click.echo("no models")
        return
    table(["model", "task", "version", "state", "since", "digest", "privacy", "reason"], rows)


def short_claim(claim: dict[str, Any] | None) -> str:
    """Return a privacy claim for a table: "ε 8, user", or "-" where there is none.

    An audit is told of only where it could have contradicted the claim.
    """
    if claim is None:
        return "-"
    audited = claim["audited"] and claim["audit_ceiling"] > claim["epsilon"]
    return f"ε {claim['epsilon']:.3g}, {claim['unit']}{', audited' if audited else ''}"


def long_claim(claim: dict[str, Any] | None) -> str:
    """Return a privacy claim in words."""
    if claim is None:
        return "no claim"
    unit = f"per {claim['unit']}"
    if claim["unit"] == "user":
        unit += (
            f" (by the field {claim['user_field']!r}, at most {claim['contributions']} of their "
            "records)"
        )
    audit = "not audited"
    if claim["audited"]:
        audit = (
            f"an audit shows epsilon {claim['audited_epsilon']:.3g} at least, and could have shown "
            f"{claim['audit_ceiling']:.3g} at most"
        )
        if claim["audit_ceiling"] <= claim["epsilon"]:
            audit += ", so it could not have contradicted the claim"
    return f"epsilon {claim['epsilon']:.4g}, delta {claim['delta']:.4g} {unit}; {audit}"


def since(milliseconds: int) -> str:
    """Return a point in time for a person, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def variant_text(variant: dict[str, Any], running: str) -> str:
    """Return "fast (llama.cpp, for x86-64-v3, runs here)"."""
    needs = variant.get("requires", {}).get("cpu")
    told = [variant["backend"], *([f"for {needs}"] if needs else [])]
    told += ["runs here"] if variant["id"] == running else []
    return f"{variant['id']} ({', '.join(told)})"


def _loaded(version: dict[str, Any]) -> bool:
    return version["state"] in {"live", "previous"}


def _described(data: dict[str, Any]) -> dict[str, Any]:
    """Return the version that the manifest is of."""
    version = data["manifest"]["version"]
    found: dict[str, Any] = next(v for v in data["versions"] if v["version"] == version)
    return found


def _render_one(data: dict[str, Any]) -> None:
    manifest = data["manifest"]
    fields(
        {
            "model": data["name"],
            "task": data["task"],
            "version": manifest["version"],
            "context": f"{data['context_tokens']} tokens, {data['max_sequences']} sequences",
            "license": manifest.get("license"),
            "privacy": long_claim(_described(data)["privacy"]),
            "variants": [
                variant_text(each, _described(data)["variant"]) for each in manifest["variants"]
            ],
        }
    )
    click.echo()
    render_models({"models": [data]})
