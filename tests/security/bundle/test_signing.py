"""Signing: both signatures or none, and never on what opening would refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from security.bundle.manifest import encode_manifest
from security.bundle.opening import OpenLimits, open_bundle
from security.bundle.signing import sign_bundle
from security.errors import BundleError, UnsafeModelError
from security.signing.names import SIGNATURE_NAMES
from security.signing.signers import SigningKeys
from tests.support.forged_bundles import (
    NOW,
    PROBES,
    make_bundle,
    make_signed,
    manifest,
    signing_keys,
    trusting,
    write,
)

MODEL = "variants/default/model.gguf"


def _files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_it_says_what_was_signed(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    signed = sign_bundle(path, signing_keys(), now=NOW)
    assert (signed.name, signed.version, signed.signer) == ("tiny", "1.0.0", "release")
    assert signed.file_count == 3
    assert signed.size_bytes == sum(
        len(data) for name, data in _files(path).items() if name not in SIGNATURE_NAMES
    )


def test_nothing_but_the_two_signatures_is_added(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    before = _files(path)
    sign_bundle(path, signing_keys(), now=NOW)
    after = _files(path)
    assert after.keys() - before.keys() == SIGNATURE_NAMES
    assert before.items() <= after.items()
    for name in SIGNATURE_NAMES:
        assert (path / name).stat().st_mode & 0o7777 == 0o644


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    old = os.umask(0o077)
    try:
        sign_bundle(path, signing_keys(), now=NOW)
    finally:
        os.umask(old)
    open_bundle(path, trusting(), now=NOW).close()


def test_signing_again_replaces_the_signatures(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    write(path, "probes.jsonl", PROBES * 2)
    sign_bundle(path, signing_keys("second"), now=NOW)
    with open_bundle(path, trusting("release", "second"), now=NOW) as bundle:
        assert bundle.signer == "second"


def test_what_a_crash_left_is_removed_by_signing_again(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    write(path, ".model.sig.new", b"half")
    write(path, ".model.sig.mldsa65.new", b"")
    with pytest.raises(BundleError):
        open_bundle(path, trusting(), now=NOW)
    sign_bundle(path, signing_keys(), now=NOW)
    open_bundle(path, trusting(), now=NOW).close()


def test_a_crash_between_the_two_renames_leaves_a_refused_bundle(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    old = (path / "model.sig").read_bytes()
    write(path, "probes.jsonl", PROBES * 2)
    sign_bundle(path, signing_keys(), now=NOW)
    write(path, "model.sig", old)
    with pytest.raises(BundleError) as refusal:
        open_bundle(path, trusting(), now=NOW)
    assert refusal.value.reason == "bad-sidecar"


def _extra(path: Path) -> None:
    write(path, "notes.txt", b"x")


def _link(path: Path) -> None:
    (path / "link").symlink_to("bundle.json")


def _hard_link(path: Path) -> None:
    os.link(path / MODEL, path.parent / "other")


def _executable(path: Path) -> None:
    (path / MODEL).chmod(0o755)


def _hidden(path: Path) -> None:
    write(path, ".git/config", b"")


def _empty_directory(path: Path) -> None:
    (path / "attestations").mkdir(mode=0o755)


def _collision(path: Path) -> None:
    write(path, "attestations/a.json", b"{}")
    write(path, "attestations/A.json", b"{}")


def _no_manifest(path: Path) -> None:
    (path / "bundle.json").unlink()


def _not_canonical(path: Path) -> None:
    write(path, "bundle.json", encode_manifest(manifest()) + b"\n")


def _expired(path: Path) -> None:
    end = datetime(2026, 2, 1, tzinfo=UTC)
    write(path, "bundle.json", encode_manifest(manifest(not_after=end)))


def _fifo(path: Path) -> None:
    os.mkfifo(path / "pipe", 0o644)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_extra, "unknown-file"),
        (_link, "symlink"),
        (_hard_link, "hard-link"),
        (_executable, "mode"),
        (_hidden, "bad-name"),
        (_empty_directory, "empty-directory"),
        (_collision, "case-collision"),
        (_no_manifest, "missing-file"),
        (_not_canonical, "manifest-not-canonical"),
        (_expired, "expired"),
        (_fifo, "special-file"),
    ],
)
def test_what_opening_would_refuse_is_not_signed(
    change: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    path = make_signed(tmp_path / "bundle")
    old = {name: (path / name).read_bytes() for name in SIGNATURE_NAMES}
    change(path)
    with pytest.raises(BundleError) as refusal:
        sign_bundle(path, signing_keys(), now=NOW)
    assert refusal.value.reason == reason
    assert {name: (path / name).read_bytes() for name in SIGNATURE_NAMES} == old


def test_an_unsafe_model_is_not_signed(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    write(path, MODEL, b"GGUF but not really")
    with pytest.raises(UnsafeModelError):
        sign_bundle(path, signing_keys(), now=NOW)
    assert not (path / "model.sig").exists()


def test_more_files_than_the_limit_are_not_signed(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle", {f"attestations/{i}.json": b"{}" for i in range(9)})
    with pytest.raises(BundleError) as refusal:
        sign_bundle(path, signing_keys(), now=NOW, limits=OpenLimits(max_files=8))
    assert refusal.value.reason == "too-many-files"


def test_keys_of_two_signers_make_no_signature_that_opens(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    mixed = SigningKeys("release", signing_keys().ecdsa, signing_keys("second").mldsa65)
    sign_bundle(path, mixed, now=NOW)
    with pytest.raises(BundleError) as refusal:
        open_bundle(path, trusting("release", "second"), now=NOW)
    assert refusal.value.reason == "bad-sidecar"
