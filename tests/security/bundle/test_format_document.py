"""docs/formats/bundle.md says what the code does: reasons, limits, example, fields."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import security.bundle.content
from casemate.cpu import LEVELS
from security.bundle.manifest import encode_manifest, parse_manifest
from security.bundle.opening import OpenLimits, Step
from security.signing import oms
from security.strictjson import canonical
from tests.attacks.bad_bundles import ALL
from tests.support.forged_bundles import manifest

ROOT = Path(security.bundle.content.__file__).parents[2]
DOCUMENT = (ROOT / "docs/formats/bundle.md").read_text()
SOURCES = [
    *sorted((ROOT / "security/bundle").glob("*.py")),
    *sorted((ROOT / "security/signing").glob("*.py")),
]
# Words that are not a first argument literal in the source.
INDIRECT = {"extra-file", "extra-directory", "unsigned", "no-sidecar", "missing-bundle"}


def _reasons() -> set[str]:
    found = set(INDIRECT)
    for source in SOURCES:
        found |= set(
            re.findall(r'(?:Bundle|Signature)Error\(\s*"([a-z0-9-]+)"', source.read_text())
        )
    return found


def test_every_reason_is_documented() -> None:
    documented = set(re.findall(r"`([a-z0-9-]+)`", DOCUMENT))
    assert _reasons() - documented == set()


def test_every_reason_has_a_bad_bundle() -> None:
    # These need somebody to change files meanwhile, or a disk that fails; one is only
    # given when signing, and one after an opening. They have tests of their own.
    elsewhere = {"changed", "unreadable", "empty-directory", "released"}
    assert _reasons() - {bad.reason for bad in ALL.values()} - elsewhere == set()


def test_the_example_is_a_manifest() -> None:
    example = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)[0]
    assert parse_manifest(canonical(json.loads(example))).name == "gemma-3-270m"


def test_every_field_is_documented() -> None:
    document = json.loads(encode_manifest(manifest()))
    names = set(document) | {f"limits.{key}" for key in document["limits"]}
    names |= {f"serving_defaults.{key}" for key in document["serving_defaults"]}
    names |= {f"variants[].{key}" for key in document["variants"][0]}
    names |= {"variants[].requires", "variants[].requires.cpu"}
    for name in names - {"limits", "serving_defaults", "special_tokens"}:
        assert f"`{name}`" in DOCUMENT, name


def test_every_level_is_documented() -> None:
    for level in LEVELS:
        assert f"| `{level}` |" in DOCUMENT


def test_the_signature_in_the_text_is_of_the_shape_that_is_written() -> None:
    blocks = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    payload = oms.encode_statement("x", {"bundle.json": "00" * 32})
    written = json.loads(oms.encode_signature(oms.Signature("0" * 64, payload, b"1")))
    assert _keys(json.loads(blocks[1])) == _keys(written)
    assert _keys(json.loads(blocks[2])) == _keys(json.loads(payload))


def _keys(value: object) -> object:
    """The shape of a JSON value: keys at every level, and the types of the leaves."""
    if isinstance(value, dict):
        return {key: _keys(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_keys(item) for item in value[:1]]
    return type(value).__name__


@pytest.mark.parametrize("limit", [field.name for field in fields(OpenLimits)])
def test_the_limits_are_documented(limit: str) -> None:
    value = getattr(OpenLimits(), limit)
    shown = {256: "256", 16 << 30: "16 GiB", 32 << 30: "32 GiB", 1 << 20: "1 MiB"}[value]
    assert f"| {shown} |" in DOCUMENT


def test_the_procedure_has_a_number_for_every_step() -> None:
    section = DOCUMENT.split("## 6.")[1].split("## 7.")[0]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)]
    assert numbers == list(range(1, len(Step) + 1))
