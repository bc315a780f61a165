"""`casemate verify`: check a bundle as an appliance would, or a checkpoint; print each step.

Exit code 0 means that an appliance that trusts the same signers would open exactly
these bytes; 1 that it would refuse them, and the output says at which check and why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, progress
from casemate.cli.visible import one_line

if TYPE_CHECKING:
    from security.signing.signers import Trust

_MARKS = {"passed": "ok     ", "failed": "REFUSED", "not reached": "-      "}


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    default=Path("trust/signers"),
    show_default=True,
    help="The folder of public keys that are trusted to sign.",
)
@click.option(
    "--minimum-epoch",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The lowest security epoch to accept.",
)
@json_option
def command(bundle: Path, signers: Path, minimum_epoch: int, as_json: bool) -> None:
    """Verify BUNDLE's signatures, files, format and models, and print each check.

    BUNDLE may also be a checkpoint: a directory that training wrote, with a
    training.json.

    Exits with 1 when the bundle is refused; with --json the word under "reason" is
    stable and documented.

    Example:
      casemate verify gemma-3-270m/ --signers domain/trust/signers
    """
    from security.checkpoint.verifying import is_checkpoint
    from security.errors import BundleError
    from security.signing.signers import Trust

    trust = Trust.load(signers)
    passed: list[Enum] = []
    data: dict[str, Any] = {"bundle": str(bundle), "accepted": False}
    checkpoint = is_checkpoint(bundle)
    try:
        with progress("verifying"):
            if checkpoint:
                data |= _checkpoint(bundle, trust, passed)
            else:
                data |= _bundle(bundle, trust, minimum_epoch, passed)
    except BundleError as error:
        data |= {"reason": error.reason, "message": str(error)}
    data["checks"] = _checks(_steps(checkpoint), passed)
    emit(as_json, data, _render)
    if not data["accepted"]:
        sys.exit(1)


def _bundle(path: Path, trust: Trust, minimum_epoch: int, passed: list[Enum]) -> dict[str, Any]:
    from security.bundle.opening import open_bundle

    with open_bundle(path, trust, minimum_epoch=minimum_epoch, on_step=passed.append) as bundle:
        return {
            "accepted": True,
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "security_epoch": bundle.manifest.security_epoch,
            "digest": bundle.digest,
            "signer": bundle.signer,
            "files": {name: file.sha256 for name, file in sorted(bundle.files.items())},
        }


def _checkpoint(path: Path, trust: Trust, passed: list[Enum]) -> dict[str, Any]:
    from security.checkpoint.verifying import verify_checkpoint

    checkpoint = verify_checkpoint(path, trust, on_step=passed.append)
    return {
        "accepted": True,
        "name": checkpoint.name,
        "version": None,
        "digest": checkpoint.digest,
        "signer": checkpoint.signer,
        "files": dict(sorted(checkpoint.files.items())),
    }


def _steps(checkpoint: bool) -> list[Enum]:
    from security.bundle import content
    from security.checkpoint import verifying

    return list(verifying.Step) if checkpoint else list(content.Step)


def _checks(steps: Sequence[Enum], passed: Sequence[Enum]) -> list[dict[str, str]]:
    """All steps in order: those passed, then the one that failed, then the rest."""
    results: list[dict[str, str]] = []
    outcome = "failed"
    for step in steps:
        result = outcome
        if step in passed:
            result = "passed"
        else:
            outcome = "not reached"
        check = {"check": step.name.lower(), "rule": step.value, "result": result}
        results.append(check)
    return results


def _render(data: dict[str, Any]) -> None:
    for check in data["checks"]:
        click.echo(f"  {_MARKS[check['result']]}  {check['rule']}")
    if data["accepted"]:
        name, version = one_line(data["name"]), data["version"]
        what = f"checkpoint {name}" if version is None else f"{name} {version}"
        click.echo(f"{what} is signed by {data['signer']}, {len(data['files'])} files")
        click.echo(f"  digest {data['digest']}")
    else:
        click.echo(f"refused ({data['reason']}): {one_line(data['message'])}")
