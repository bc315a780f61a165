"""`casemate verify`: open a bundle as an appliance would, and print every check.

Exit code 0 means that an appliance that trusts the same signers would open exactly
these bytes; 1 that it would refuse them, and the output says at which check and why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, progress
from casemate.cli.visible import one_line

if TYPE_CHECKING:
    from security.bundle.content import Step
    from security.bundle.opening import VerifiedBundle

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

    Exits with 1 when the bundle is refused; with --json the word under "reason" is
    stable and documented.

    Example:
      casemate verify gemma-3-270m/ --signers domain/trust/signers
    """
    from security.bundle.opening import Trust, open_bundle
    from security.errors import BundleError

    trust = Trust.load(signers)
    passed: list[Step] = []
    data: dict[str, Any] = {"bundle": str(bundle), "accepted": False}
    try:
        with (
            progress("verifying"),
            open_bundle(
                bundle, trust, minimum_epoch=minimum_epoch, on_step=passed.append
            ) as opened,
        ):
            data |= _accepted(opened)
    except BundleError as error:
        data |= {"reason": error.reason, "message": str(error)}
    data["checks"] = _checks(passed)
    emit(as_json, data, _render)
    if not data["accepted"]:
        sys.exit(1)


def _accepted(bundle: VerifiedBundle) -> dict[str, Any]:
    return {
        "accepted": True,
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "security_epoch": bundle.manifest.security_epoch,
        "digest": bundle.digest,
        "signer": bundle.signer,
        "files": {name: file.sha256 for name, file in sorted(bundle.files.items())},
    }


def _checks(passed: Sequence[Step]) -> list[dict[str, str]]:
    """All steps in order: those passed, then the one that failed, then the rest."""
    from security.bundle.content import Step

    results: list[dict[str, str]] = []
    outcome = "failed"
    for step in Step:
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
        click.echo(
            f"{data['name']} {data['version']} is signed by {data['signer']}, "
            f"{len(data['files'])} files"
        )
        click.echo(f"  digest {data['digest']}")
    else:
        click.echo(f"refused ({data['reason']}): {one_line(data['message'])}")
