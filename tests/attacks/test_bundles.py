"""No bad bundle opens, and each is refused for the right reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from security.bundle.opening import DEFAULT_LIMITS, open_bundle, verify_signatures
from security.errors import BundleError, SignatureError, UnsafeModelError
from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME
from tests.attacks.bad_bundles import ALL
from tests.support.forged_bundles import NOW, make_signed, trusting

TRUST = trusting("release", "second")


def test_the_unchanged_bundle_opens(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    with open_bundle(path, TRUST, now=NOW) as bundle:
        assert bundle.signer == "release"


def test_there_are_hundreds_of_bad_bundles() -> None:
    assert len(ALL) >= 300


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_bad_bundle_is_refused(name: str, tmp_path: Path) -> None:
    bad = ALL[name]
    path = make_signed(tmp_path / "bundle")
    bad.change(path)
    with pytest.raises(BundleError) as refusal:
        open_bundle(
            path / bad.target, TRUST, now=NOW, limits=bad.limits, minimum_epoch=bad.minimum_epoch
        ).close()
    if bad.reason == "unsafe":
        assert isinstance(refusal.value, UnsafeModelError)
    else:
        assert refusal.value.reason == bad.reason, str(refusal.value)
    assert str(refusal.value).isprintable()


def _flips(data: bytes, step: int) -> list[bytes]:
    """Every `step`th single-bit change of `data`."""
    return [
        data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]
        for bit in range(0, len(data) * 8, step)
    ]


def _accepted(path: Path, name: str, step: int) -> int:
    good = {n: (path / n).read_bytes() for n in (SIGNATURE_NAME, SIDECAR_NAME)}
    verify_signatures(good, TRUST, DEFAULT_LIMITS)
    accepted = 0
    for flipped in _flips(good[name], step):
        try:
            verify_signatures(good | {name: flipped}, TRUST, DEFAULT_LIMITS)
        except SignatureError:
            continue
        accepted += 1
    return accepted


# A prime step, so that the sample meets every bit position of a byte.
@pytest.mark.parametrize(("name", "step"), [(SIGNATURE_NAME, 1), (SIDECAR_NAME, 29)])
def test_no_single_bit_flip_of_a_signature_file_is_accepted(
    name: str, step: int, tmp_path: Path
) -> None:
    assert _accepted(make_signed(tmp_path / "bundle"), name, step) == 0


@pytest.mark.slow
def test_no_single_bit_flip_of_the_sidecar_is_accepted(tmp_path: Path) -> None:
    assert _accepted(make_signed(tmp_path / "bundle"), SIDECAR_NAME, 1) == 0


@pytest.mark.parametrize("name", [SIGNATURE_NAME, SIDECAR_NAME])
def test_no_flip_on_disk_is_accepted(name: str, tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    good = (path / name).read_bytes()
    for flipped in _flips(good, len(good) * 8 // 100):
        (path / name).write_bytes(flipped)
        with pytest.raises(SignatureError):
            open_bundle(path, TRUST, now=NOW).close()
    (path / name).write_bytes(good)
    open_bundle(path, TRUST, now=NOW).close()
