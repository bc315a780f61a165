"""Keys: every algorithm there and back, and what is refused on the way."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from security import pkcs8
from security.errors import KeyFileError, SecurityError
from security.files import create_exclusive, write_atomic
from security.keys import (
    Algorithm,
    algorithm_of,
    generate,
    load_private_key,
    load_public_key,
    public_pem,
    read_passphrase,
    save_private_key,
)

PASSPHRASE = b"correct horse battery"


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_key_comes_back_as_it_was_saved(
    tmp_path: Path, algorithm: Algorithm, passphrase: bytes | None
) -> None:
    key = generate(algorithm)
    save_private_key(tmp_path / "k", key, passphrase)
    loaded = load_private_key(tmp_path / "k", algorithm, passphrase)
    assert public_pem(loaded) == public_pem(key)
    assert algorithm_of(loaded) is algorithm_of(key.public_key()) is algorithm
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_public_key_comes_back(tmp_path: Path, algorithm: Algorithm) -> None:
    key = generate(algorithm)
    write_atomic(tmp_path / "k.pem", public_pem(key))
    assert public_pem(load_public_key(tmp_path / "k.pem", algorithm)) == public_pem(key)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    save_private_key(tmp_path / "k", generate(Algorithm.ED25519))
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        save_private_key(tmp_path / "k", generate(Algorithm.ED25519))
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_of_another_algorithm_is_refused(tmp_path: Path, algorithm: Algorithm) -> None:
    other = Algorithm.ED25519 if algorithm is not Algorithm.ED25519 else Algorithm.MLDSA65
    save_private_key(tmp_path / "k", generate(other))
    with pytest.raises(KeyFileError, match=f"no {algorithm} key"):
        load_private_key(tmp_path / "k", algorithm)
    write_atomic(tmp_path / "k.pem", public_pem(generate(other)))
    with pytest.raises(KeyFileError, match=f"no {algorithm} key"):
        load_public_key(tmp_path / "k.pem", algorithm)


def test_algorithms_we_do_not_use_are_refused(tmp_path: Path) -> None:
    foreign: list[rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ]
    for number, key in enumerate(foreign):
        path = tmp_path / f"{number}.key"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_exclusive(path, pem)
        with pytest.raises(KeyFileError, match="another algorithm"):
            load_private_key(path, Algorithm.ECDSA_P256)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomic(path.with_suffix(".pem"), public)
        with pytest.raises(KeyFileError, match="another algorithm"):
            load_public_key(path.with_suffix(".pem"), Algorithm.ECDSA_P256)


class TestPassphrase:
    @pytest.fixture
    def encrypted(self, tmp_path: Path) -> Path:
        save_private_key(tmp_path / "k", generate(Algorithm.ECDSA_P384), PASSPHRASE)
        return tmp_path / "k"

    def test_a_wrong_one_is_refused(self, encrypted: Path) -> None:
        with pytest.raises(KeyFileError, match="passphrase is wrong"):
            load_private_key(encrypted, Algorithm.ECDSA_P384, b"incorrect horse battery")

    def test_a_missing_one_is_asked_for(self, encrypted: Path) -> None:
        with pytest.raises(KeyFileError, match="--passphrase-file"):
            load_private_key(encrypted, Algorithm.ECDSA_P384)

    def test_errors_do_not_quote_it(self, encrypted: Path) -> None:
        with pytest.raises(KeyFileError) as caught:
            load_private_key(encrypted, Algorithm.ECDSA_P384, b"SENTINEL-PASSPHRASE")
        assert "SENTINEL" not in f"{caught.value!r} {caught.value.__context__!r}"

    @pytest.mark.parametrize("passphrase", [b"", b"short", b"x" * 14, b"x" * 1025])
    def test_a_bad_length_is_refused_before_a_key_is_written(
        self, tmp_path: Path, passphrase: bytes
    ) -> None:
        with pytest.raises(KeyFileError, match="15 to 1024 bytes"):
            save_private_key(tmp_path / "k", generate(Algorithm.ED25519), passphrase)
        assert not (tmp_path / "k").exists()

    def test_a_file_loses_one_line_end(self, tmp_path: Path) -> None:
        create_exclusive(tmp_path / "p", PASSPHRASE + b"\r\n")
        assert read_passphrase(tmp_path / "p") == PASSPHRASE

    def test_a_file_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        create_exclusive(tmp_path / "p", PASSPHRASE, 0o644)
        with pytest.raises(KeyFileError, match="chmod 600"):
            read_passphrase(tmp_path / "p")

    def test_openssl_opens_it_and_sees_the_number_of_rounds(self, encrypted: Path) -> None:
        shown = subprocess.run(
            ["openssl", "pkey", "-in", str(encrypted), "-passin", "stdin", "-pubout"],
            input=PASSPHRASE,
            capture_output=True,
            check=True,
        )
        key = load_private_key(encrypted, Algorithm.ECDSA_P384, PASSPHRASE)
        assert shown.stdout == public_pem(key)
        structure = subprocess.run(
            ["openssl", "asn1parse", "-in", str(encrypted)], capture_output=True, check=True
        ).stdout
        assert b"PBKDF2" in structure
        assert f":{pkcs8.PBKDF2_ROUNDS:06X}".encode() in structure


DAMAGED = {
    "empty": b"",
    "text": b"no key at all",
    "binary": bytes(range(256)),
    "label-only": b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
    "encrypted-label-only": (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n"
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    create_exclusive(tmp_path / "k", DAMAGED[name])
    with pytest.raises(KeyFileError, match="cannot be read as a private key"):
        load_private_key(tmp_path / "k", Algorithm.ED25519, PASSPHRASE)
    with pytest.raises(KeyFileError, match="cannot be read as a public key"):
        load_public_key(tmp_path / "k", Algorithm.ED25519)


def test_truncated_keys_are_refused(tmp_path: Path) -> None:
    save_private_key(tmp_path / "k", generate(Algorithm.ECDSA_P256))
    whole = (tmp_path / "k").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path = tmp_path / f"{length}.key"
        create_exclusive(path, whole[:length])
        with pytest.raises(KeyFileError):
            load_private_key(path, Algorithm.ECDSA_P256)


def test_a_key_shows_nothing_of_itself() -> None:
    for algorithm in Algorithm:
        key = generate(algorithm)
        raw = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        assert raw[-16:].hex() not in repr(key)
        assert len(repr(key)) < 200


def test_an_oversized_key_file_is_refused(tmp_path: Path) -> None:
    create_exclusive(tmp_path / "k", b"x" * (64 * 1024 + 1))
    with pytest.raises(KeyFileError, match="larger than 65536 bytes"):
        load_private_key(tmp_path / "k", Algorithm.ED25519)
    with pytest.raises(SecurityError, match="larger than 65536 bytes"):
        load_public_key(tmp_path / "k", Algorithm.ED25519)
