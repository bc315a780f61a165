"""Trusted signers and signing keys, as they lie in a trust domain's folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from security.errors import KeyFileError, SecurityError, UsageError
from security.keys import Algorithm, generate, public_pem, save_private_key
from security.signing.signers import SignerKeys, SigningKeys, Trust
from tests.support.forged_bundles import signing_keys

PASSPHRASE = b"correct horse battery staple"


def _trust_folder(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        keys = signing_keys(name)
        for suffix, key in (("ecdsa", keys.ecdsa), ("mldsa65", keys.mldsa65)):
            file = folder / f"{name}.{suffix}.pem"
            file.write_bytes(public_pem(key))
            file.chmod(0o644)
    return folder


def _signing_folder(folder: Path, passphrase: bytes | None = None) -> Path:
    folder.mkdir()
    keys = signing_keys()
    save_private_key(folder / "release.ecdsa.key", keys.ecdsa, passphrase)
    save_private_key(folder / "release.mldsa65.key", keys.mldsa65, passphrase)
    return folder


def test_every_pair_in_the_folder_is_trusted(tmp_path: Path) -> None:
    trust = Trust.load(_trust_folder(tmp_path / "signers", "release", "second"))
    assert sorted(trust.signers) == ["release", "second"]
    found = trust.find(signing_keys("second").public().hint)
    assert found is not None
    assert found.name == "second"
    assert trust.find("0" * 64) is None
    assert trust.find(signing_keys("second").public().hint.upper()) is None


def test_the_hint_is_what_other_oms_tools_write() -> None:
    import hashlib

    keys = signing_keys().public()
    assert keys.hint == hashlib.sha256(public_pem(keys.ecdsa)).hexdigest()


def _half(folder: Path) -> None:
    (folder / "release.mldsa65.pem").unlink()


def _unknown(folder: Path) -> None:
    (folder / "notes.pem").write_bytes(b"")


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _writable(folder: Path) -> None:
    (folder / "release.ecdsa.pem").chmod(0o666)


def _swapped(folder: Path) -> None:
    first, second = folder / "release.ecdsa.pem", folder / "release.mldsa65.pem"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def _garbage(folder: Path) -> None:
    (folder / "release.ecdsa.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n")


def _private(folder: Path) -> None:
    (folder / "release.ecdsa.pem").unlink()
    save_private_key(folder / "release.ecdsa.pem", signing_keys().ecdsa)


def _other_curve(folder: Path) -> None:
    (folder / "release.ecdsa.pem").write_bytes(public_pem(generate(Algorithm.ECDSA_P384)))


def _same_key_twice(folder: Path) -> None:
    for suffix in ("ecdsa", "mldsa65"):
        copy = folder / f"copy.{suffix}.pem"
        copy.write_bytes((folder / f"release.{suffix}.pem").read_bytes())
        copy.chmod(0o644)


def _bad_name(folder: Path) -> None:
    (folder / "release.ecdsa.pem").rename(folder / "Release.ecdsa.pem")


@pytest.mark.parametrize(
    "change",
    [
        _half,
        _unknown,
        _empty,
        _writable,
        _swapped,
        _garbage,
        _private,
        _other_curve,
        _same_key_twice,
        _bad_name,
    ],
)
def test_a_bad_folder_of_signers_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = _trust_folder(tmp_path / "signers", "release")
    change(folder)
    with pytest.raises(KeyFileError):
        Trust.load(folder)


def test_a_missing_folder_of_signers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="nowhere"):
        Trust.load(tmp_path / "nowhere")


def test_too_many_signers_are_refused(tmp_path: Path) -> None:
    folder = _trust_folder(tmp_path / "signers", "release")
    for number in range(64):
        (folder / f"s{number}.ecdsa.pem").write_bytes(b"")
    with pytest.raises(KeyFileError, match="64"):
        Trust.load(folder)


def test_other_files_beside_the_keys_do_not_matter(tmp_path: Path) -> None:
    folder = _trust_folder(tmp_path / "signers", "release")
    (folder / "README").write_text("who is who")
    assert list(Trust.load(folder).signers) == ["release"]


def test_two_signers_of_one_name_are_refused() -> None:
    first = signing_keys("release").public()
    second = signing_keys("second").public()
    with pytest.raises(KeyFileError):
        Trust.of(first, SignerKeys("release", second.ecdsa, second.mldsa65))


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_signing_keys_are_loaded(passphrase: bytes | None, tmp_path: Path) -> None:
    folder = _signing_folder(tmp_path / "signing", passphrase)
    keys = SigningKeys.load(folder, passphrase=passphrase)
    assert keys.public().hint == signing_keys().public().hint


def test_signing_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    folder = _signing_folder(tmp_path / "signing")
    (folder / "release.mldsa65.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="0640"):
        SigningKeys.load(folder)


def test_an_unknown_signer_has_no_keys(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match=r"nobody\.ecdsa\.key"):
        SigningKeys.load(_signing_folder(tmp_path / "signing"), "nobody")


@pytest.mark.parametrize("name", ["", "../release", "a/b", "Release", "a" * 64, "-x"])
def test_a_signer_with_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        SigningKeys.load(tmp_path, name)
