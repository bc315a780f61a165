"""`casemate sign`: put both signatures on a bundle, or on a checkpoint from training.

Refuses whatever `casemate verify` would refuse; the private keys are read here and
never leave the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import counted, emit, json_option, progress, warn
from casemate.cli.visible import one_line

if TYPE_CHECKING:
    from security.signing.signers import SigningKeys


@click.command("sign")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    default=Path("signing"),
    show_default=True,
    help="The signing folder of the trust domain.",
)
@click.option("--name", default="release", show_default=True, help="Which signer's keys to use.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Holds the passphrase of encrypted keys; mode 0600.",
)
@json_option
def command(
    bundle: Path, keys: Path, name: str, passphrase_file: Path | None, as_json: bool
) -> None:
    """Sign BUNDLE with ECDSA P-256 (OpenSSF Model Signing v1.0) and ML-DSA-65.

    BUNDLE may also be a checkpoint: a directory that training wrote, with a
    training.json. Signatures that it has are replaced. What would be refused at
    opening is not signed, and the message says why.

    Example:
      casemate sign gemma-3-270m/ --keys domain/signing
    """
    from security.checkpoint.verifying import is_checkpoint
    from security.keys import read_passphrase
    from security.signing.signers import SigningKeys

    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    signing_keys = SigningKeys.load(keys, name, passphrase)
    checkpoint = is_checkpoint(bundle)
    with progress("signing"):
        data = (_checkpoint if checkpoint else _bundle)(bundle, signing_keys)
    if not data.pop("installable", True):
        warn("there is no probes.jsonl, without which no appliance installs a bundle")
    emit(as_json, {"bundle": str(bundle), "keys": str(keys), **data}, _render)


def _bundle(path: Path, keys: SigningKeys) -> dict[str, Any]:
    from security.bundle.signing import sign_bundle

    signed = sign_bundle(path, keys)
    return {
        "name": signed.name,
        "version": signed.version,
        "digest": signed.digest,
        "signer": signed.signer,
        "files": signed.file_count,
        "size_bytes": signed.size_bytes,
        "installable": signed.has_probes,
    }


def _checkpoint(path: Path, keys: SigningKeys) -> dict[str, Any]:
    from security.checkpoint.signing import sign_checkpoint

    signed = sign_checkpoint(path, keys)
    return {
        "name": signed.name,
        # A checkpoint has no version: its digest tells it from others.
        "version": None,
        "digest": signed.digest,
        "signer": signed.signer,
        "files": signed.file_count,
        "size_bytes": signed.size_bytes,
    }


def _render(data: dict[str, Any]) -> None:
    name, version = one_line(data["name"]), data["version"]
    what = f"checkpoint {name}" if version is None else f"{name} {version}"
    click.echo(f"signed {what} as {data['signer']}")
    click.echo(f"  {counted(data['files'], 'file', 'files')}, {data['size_bytes']:,} bytes")
    click.echo(f"  digest {data['digest']}")
    # Where signing/ is the default, trust/signers is that of `casemate verify`.
    keys = Path(data["keys"])
    signers = "" if keys == Path("signing") else f" --signers {keys.parent / 'trust' / 'signers'}"
    click.echo(f"Check it with: casemate verify {data['bundle']}{signers}")
