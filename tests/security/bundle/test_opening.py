"""The verified opening: what it gives, what it leaves behind, and what it costs."""

from __future__ import annotations

import fcntl
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from security.bundle.opening import (
    OpenLimits,
    Step,
    open_bundle,
    open_unsigned,
)
from security.bundle.signing import sign_bundle
from security.errors import BundleError, SignatureError
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


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_good_bundle_opens_with_everything_in_it(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle", {"attestations/a.json": b"{}"})
    with open_bundle(path, trusting(), now=NOW) as bundle:
        assert bundle.manifest == manifest()
        assert bundle.signer == "release"
        assert sorted(bundle.files) == ["attestations/a.json", "bundle.json", "probes.jsonl", MODEL]
        assert set(bundle.signatures) == {"model.sig", "model.sig.mldsa65"}
        assert bundle.signatures["model.sig"] == (path / "model.sig").read_bytes()
        assert bundle.summaries["default"].parameter_count > 0
        for name, file in bundle.files.items():
            content = (path / name).read_bytes()
            assert file.read() == content
            assert (file.size_bytes, file.name) == (len(content), name)
            assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_descriptors_are_sealed_read_only_and_close_on_exec(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    with open_bundle(path, trusting(), now=NOW) as bundle:
        fd = bundle.files[MODEL].fd
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        assert seals & wanted == wanted
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with pytest.raises(OSError):
            os.write(fd, b"x")
        writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            with pytest.raises(OSError):
                os.write(writable, b"x")
            with pytest.raises(OSError):
                os.ftruncate(writable, 0)
        finally:
            os.close(writable)


def test_closing_gives_every_descriptor_back(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    before = _descriptors()
    bundle = open_bundle(path, trusting(), now=NOW)
    assert len(_descriptors()) == len(before) + len(bundle.files)
    bundle.close()
    bundle.close()
    assert _descriptors() == before


@pytest.mark.parametrize("name", ["bundle.json", MODEL, "probes.jsonl", "model.sig"])
def test_a_refusal_leaves_no_descriptor_behind(name: str, tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    (path / name).write_bytes(b"changed")
    before = _descriptors()
    with pytest.raises(BundleError):
        open_bundle(path, trusting(), now=NOW)
    assert _descriptors() == before


def test_the_steps_pass_in_their_order(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    passed: list[Step] = []
    open_bundle(path, trusting(), now=NOW, on_step=passed.append).close()
    assert passed == list(Step)


def test_nothing_signed_is_looked_at_before_the_signatures_hold(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    (path / MODEL).unlink()
    (path / "bundle.json").write_bytes(b"not even JSON")
    passed: list[Step] = []
    with pytest.raises(SignatureError):
        open_bundle(path, trusting("second"), now=NOW, on_step=passed.append)
    assert passed[-1] is Step.ENVELOPE


@pytest.mark.parametrize(("after", "opens"), [(timedelta(0), True), (timedelta(seconds=1), False)])
def test_a_bundle_is_good_until_its_end_and_not_after(
    after: timedelta, opens: bool, tmp_path: Path
) -> None:
    end = datetime(2026, 12, 31, tzinfo=UTC)
    path = make_signed(tmp_path / "bundle", not_after=end)
    if opens:
        open_bundle(path, trusting(), now=end + after).close()
    else:
        with pytest.raises(BundleError) as refusal:
            open_bundle(path, trusting(), now=end + after)
        assert refusal.value.reason == "expired"


def test_the_clock_decides_when_no_time_is_given(tmp_path: Path) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    path = make_bundle(tmp_path / "bundle", created=soon - timedelta(days=9), not_after=soon)
    sign_bundle(path, signing_keys())
    open_bundle(path, trusting()).close()


def test_the_epoch_is_a_floor_and_apart_from_the_version(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle", security_epoch=3, version="0.1.0")
    open_bundle(path, trusting(), now=NOW, minimum_epoch=3).close()
    with pytest.raises(BundleError) as refusal:
        open_bundle(path, trusting(), now=NOW, minimum_epoch=4)
    assert refusal.value.reason == "rollback"


def test_the_signer_is_named_among_several(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    with open_bundle(path, trusting("second", "release", "third"), now=NOW) as bundle:
        assert bundle.signer == "release"


def test_limits_are_inclusive(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    sizes = [(path / name).stat().st_size for name in ("bundle.json", MODEL, "probes.jsonl")]
    signature = max((path / name).stat().st_size for name in ("model.sig", "model.sig.mldsa65"))
    limits = OpenLimits(
        max_files=3,
        max_file_bytes=max(sizes),
        max_total_bytes=sum(sizes),
        max_signature_bytes=signature,
    )
    open_bundle(path, trusting(), now=NOW, limits=limits).close()


@pytest.mark.parametrize("name", OpenLimits.__dataclass_fields__)
def test_a_limit_below_one_is_no_limit(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        OpenLimits(**{name: 0})


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    with open_bundle(path, trusting(), now=NOW) as bundle:
        probes = bundle.files["probes.jsonl"]
        assert probes.read(len(PROBES)) == PROBES
        with pytest.raises(BundleError) as refusal:
            probes.read(len(PROBES) - 1)
        assert refusal.value.reason == "oversized"


def test_an_unsigned_bundle_opens_only_for_recording(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    (path / "probes.jsonl").unlink()
    with open_unsigned(path) as bundle:
        assert (bundle.signer, dict(bundle.signatures)) == ("", {})
        assert sorted(bundle.files) == ["bundle.json", MODEL]
    write(path, "bundle.json", b"{}")
    with pytest.raises(BundleError):
        open_unsigned(path)


def test_the_digest_is_the_same_before_and_after_signing(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    with open_unsigned(path) as bundle:
        before = bundle.digest
    signed = sign_bundle(path, signing_keys(), now=NOW)
    with open_bundle(path, trusting(), now=NOW) as bundle:
        assert bundle.digest == signed.digest == before
