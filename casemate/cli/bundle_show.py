"""What `casemate bundle show` prints: a bundle's manifest, files and models.

`describe` turns an open bundle into JSON types, `render` prints them for a person.
The chat template is text of the model's author, not of a prompt, but may be long: its
size is shown, and the text only in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import fields, table
from casemate.cli.quality import quality_text

if TYPE_CHECKING:
    from security.bundle.opening import VerifiedBundle


def describe(bundle: VerifiedBundle) -> dict[str, Any]:
    """Return all of a bundle but its models' weights, in JSON types.

    Works for a verified bundle and for one from `open_unsigned`, whose "signer" is
    then null.
    """
    import json

    from security.bundle.manifest import encode_manifest

    return {
        "signer": bundle.signer or None,
        "digest": bundle.digest,
        "privacy": _privacy(bundle),
        "conversion": _conversion(bundle),
        "manifest": json.loads(encode_manifest(bundle.manifest)),
        "models": {variant: _plain(summary) for variant, summary in bundle.summaries.items()},
        "files": [
            {"name": name, "size_bytes": file.size_bytes, "sha256": file.sha256}
            for name, file in sorted(bundle.files.items())
        ],
    }


def render(data: dict[str, Any]) -> None:
    """Print what `describe` returned."""
    manifest = data["manifest"]
    click.echo(f"{manifest['name']} {manifest['version']}, task {manifest['task']}")
    template = manifest["chat_template"]
    fields(
        {
            "signed by": data["signer"] or "(signatures not verified here: casemate verify does)",
            "digest": data["digest"],
            "privacy": _privacy_text(data["privacy"]),
            "made of": _source_text(data["conversion"]),
            "security epoch": manifest["security_epoch"],
            "created": manifest["created"],
            "not after": manifest["not_after"] or "no end",
            "license": _first_line(manifest["license"]),
            "context tokens": manifest["limits"]["context_tokens"],
            "max sequences": manifest["limits"]["max_sequences"],
            "max output tokens": manifest["limits"]["max_output_tokens"],
            "chat template": "none" if template is None else f"{len(template):,} characters",
            "defaults": ", ".join(f"{k} {v}" for k, v in manifest["serving_defaults"].items()),
        }
    )
    click.echo("")
    made = _made(data["conversion"])
    table(
        ["variant", "backend", "needs", "format", "quality", "file"],
        [
            [
                *(v["id"], v["backend"], v.get("requires", {}).get("cpu", "any cpu")),
                *made.get(v["file"], ("not stated", "not stated")),
                v["file"],
            ]
            for v in manifest["variants"]
        ],
    )
    click.echo("")
    table(
        ["file", "bytes", "sha256"],
        [[f["name"], f"{f['size_bytes']:,}", f["sha256"]] for f in data["files"]],
    )


def _conversion(bundle: VerifiedBundle) -> dict[str, Any] | None:
    from security.bundle.conversion import conversion_of
    from security.errors import AttestationError

    try:
        found = conversion_of(bundle.files, bundle.manifest)
    except AttestationError as error:
        return {"problem": str(error)}
    return None if found is None else _plain(found)


def _made(conversion: dict[str, Any] | None) -> dict[str, tuple[str, str]]:
    """Return format and quality in words, by model file."""
    if conversion is None or "problem" in conversion:
        return {}
    return {
        one["file"]: (one["label"], quality_text(one["quality"])) for one in conversion["variants"]
    }


def _source_text(conversion: dict[str, Any] | None) -> str:
    if conversion is None:
        return "not stated"
    if "problem" in conversion:
        return f"cannot be relied on: {conversion['problem']}"
    what = conversion["model_type"] or "a graph"
    return f"{what} ({conversion['kind']}), promised {conversion['promise']}"


def _privacy(bundle: VerifiedBundle) -> dict[str, Any] | None:
    """Return the privacy claim, why it cannot be relied on, or None where there is none."""
    from security.bundle.attestations import privacy_claim
    from security.errors import AttestationError

    try:
        claim = privacy_claim(bundle.files, bundle.manifest)
    except AttestationError as error:
        return {"problem": str(error)}
    return None if claim is None else {**_plain(claim), "audited": claim.audited}


def _privacy_text(claim: dict[str, Any] | None) -> str:
    if claim is None:
        return "no claim"
    if "problem" in claim:
        return f"cannot be relied on: {claim['problem']}"
    audit = _audit_text(claim) if claim["audited"] else "not audited"
    by = f" (by the field {claim['user_field']!r})" if claim["user_field"] else ""
    return (
        f"epsilon {claim['epsilon']:.4g}, delta {claim['delta']:.4g} per {claim['unit']}{by}, "
        f"{audit}"
    )


def _audit_text(claim: dict[str, Any]) -> str:
    """Return what the audit behind a claim found, and what it could have found at most."""
    audit = claim["audit"]
    words = (
        f"audited: epsilon is {audit['lower_bound']:.3g} at least, and the audit could have shown "
        f"{audit['ceiling']:.3g} at most"
    )
    if audit["ceiling"] <= claim["epsilon"]:
        words += ", so it could not have contradicted the claim"
    return words


def _plain(value: Any) -> Any:
    """Turn a summary (dataclasses, mappings, tuples) into what JSON knows."""
    import dataclasses

    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _first_line(text: str | None) -> str:
    """The start of a text for a terminal; control characters could drive it."""
    lines = (text or "").splitlines()
    shown = "".join(c if c.isprintable() else "?" for c in lines[0][:80]) if lines else ""
    return shown or "not stated"
