"""bundle.json: one spelling for every manifest, and one manifest for every spelling.

What is refused is in tests/attacks/bad_bundles/manifests.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.bundle.manifest import (
    MODEL_FILES,
    SEMVER,
    BundleLimits,
    BundleManifest,
    Encoder,
    ServingDefaults,
    SpecialTokens,
    Tokenizer,
    Variant,
    encode_manifest,
    parse_manifest,
)
from security.errors import BundleError
from tests.support.forged_bundles import manifest

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
_instants = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC)
).map(lambda instant: instant.replace(microsecond=0))
_ids = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)


@st.composite
def _manifests(draw: st.DrawFn) -> BundleManifest:
    task = draw(st.sampled_from(["generate", "embed", "classify", "tensor"]))
    generates, encodes = task == "generate", task in ("embed", "classify")
    backend = "llama.cpp" if generates else "onnxruntime"
    context = draw(st.integers(1, 1 << 22))
    longest = draw(st.integers(1, context))
    created = draw(_instants)
    labels = draw(st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=5, unique=True))
    return BundleManifest(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
        version=draw(st.sampled_from(["0.0.0", "1.2.3", "1.0.0-rc.1", "1.0.0-a-b.0+build.01"])),
        security_epoch=draw(st.integers(0, 2**31 - 1)),
        task=task,
        created=created,
        not_after=draw(st.none() | _instants.filter(lambda instant: instant > created)),
        license=draw(st.none() | _text),
        variants=tuple(
            Variant.of(i, backend, draw(st.none() | st.sampled_from(["x86-64-v3", "of-later"])))
            for i in draw(st.lists(_ids, min_size=1, max_size=4, unique=True))
        ),
        tokenizer=Tokenizer() if encodes else None,
        limits=BundleLimits(context, draw(st.integers(1, 4096)), longest),
        chat_template=draw(st.none() | _text) if generates else None,
        special_tokens=SpecialTokens(draw(st.none() | _text), draw(st.none() | _text)),
        serving_defaults=ServingDefaults(
            max_tokens=draw(st.integers(1, longest)),
            temperature=draw(st.floats(0, 2)),
            top_k=draw(st.integers(0, 2**31 - 1)),
            top_p=draw(st.floats(0, 1, exclude_min=True, allow_subnormal=False)),
            min_p=draw(st.floats(0, 1, exclude_max=True)),
            repetition_penalty=draw(st.floats(0.1, 2)),
            presence_penalty=draw(st.floats(-2, 2)),
        ),
        encoder=Encoder("cls", True, 8, tuple(labels) if task == "classify" else ())
        if encodes
        else None,
    )


@given(_manifests())
def test_every_good_manifest_survives_the_round_trip(good: BundleManifest) -> None:
    data = encode_manifest(good)
    assert parse_manifest(data) == good
    assert encode_manifest(parse_manifest(data)) == data


@given(st.binary(max_size=300))
def test_any_bytes_give_a_manifest_or_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(data)


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(json.loads(encode_manifest(manifest())))), value=_JSON)
def test_any_value_in_any_field_gives_a_manifest_or_a_bundle_error(
    field: str, value: object
) -> None:
    document = json.loads(encode_manifest(manifest())) | {field: value}
    refusal: BundleError | None = None
    try:
        parse_manifest(json.dumps(document).encode())
    except BundleError as error:
        refusal = error
    assert refusal is None or refusal.reason.startswith("manifest-")
    assert str(refusal).isprintable()


def test_the_message_names_the_field_and_not_its_value() -> None:
    data = encode_manifest(manifest()).replace(b'"top_p":1', b'"top_p":77')
    with pytest.raises(BundleError, match=r"serving_defaults\.top_p") as refusal:
        parse_manifest(data)
    assert "77" not in str(refusal.value)


def test_an_unacceptable_manifest_is_not_encoded() -> None:
    with pytest.raises(BundleError, match="name"):
        encode_manifest(manifest(name="Not A Name"))
    with pytest.raises(BundleError) as refusal:
        encode_manifest(
            manifest(serving_defaults=replace(ServingDefaults(), temperature=float("nan")))
        )
    assert refusal.value.reason == "manifest-field"


def test_another_time_zone_is_written_as_utc() -> None:
    from datetime import timedelta, timezone

    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert parse_manifest(encode_manifest(manifest(created=east))).created == east
    assert b'"created":"2026-01-01T00:00:00Z"' in encode_manifest(manifest(created=east))


@pytest.mark.parametrize("backend", sorted(MODEL_FILES))
def test_a_variant_knows_its_file(backend: str) -> None:
    assert Variant.of("fast", backend).file == f"variants/fast/{MODEL_FILES[backend]}"


# From the test cases linked at semver.org.
@pytest.mark.parametrize(
    "version",
    [
        "0.0.4",
        "1.1.2-prerelease+meta",
        "1.0.0-alpha.0valid",
        "1.0.0--",
        "2.0.0+build.1848",
        "1.0.0-0A.is.legal",
        "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
    ],
)
def test_semantic_versions(version: str) -> None:
    assert SEMVER.fullmatch(version)
