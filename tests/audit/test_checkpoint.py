"""Notes, keys and checkpoints: what is signed, what is accepted, what is refused."""

from __future__ import annotations

import base64
import random
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from security import keys as key_files
from security.audit.checkpoint import (
    Checkpoint,
    cosigned_message,
    parse_checkpoint_text,
    verify_checkpoint,
)
from security.audit.note import (
    ED25519,
    MLDSA44,
    VerifierKey,
    decode_base64,
    encode_note,
    parse_note,
    parse_vkeys,
)
from security.audit.signer import LogSigner, verifier_lines
from security.errors import AuditError, KeyFileError
from tests.audit.support import ORIGIN, SIGNER, VKEYS, make_signer

ROOT = bytes(range(32))
NOTE = SIGNER.sign(7, ROOT).note
LINES = NOTE.decode().split("\n")
ED_LINE, PQ_LINE = LINES[4], LINES[5]


def note_with(text: str, *signatures: str) -> bytes:
    return (text + "\n" + "".join(f"{line}\n" for line in signatures)).encode()


TEXT = Checkpoint(ORIGIN, 7, ROOT).text()


def test_a_signed_checkpoint_is_accepted_and_says_who_signed() -> None:
    verified = verify_checkpoint(NOTE, SIGNER.keys)
    assert verified.checkpoint == Checkpoint(ORIGIN, 7, ROOT)
    assert [key.algorithm for key in verified.signed_by] == [ED25519, MLDSA44]
    assert verified.signed_at == 1_700_000_000
    assert note_with(TEXT, ED_LINE, PQ_LINE) == NOTE


def test_the_ed25519_key_of_the_go_checksum_database_verifies_its_published_note() -> None:
    """The example of golang.org/x/mod/sumdb/note: name, key id and line syntax agree."""
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    (key,) = parse_vkeys(vkey)
    assert (key.name, key.algorithm, key.key_id.hex()) == ("PeterNeumann", ED25519, "c74f20a3")
    assert key.line() == vkey


def test_what_ml_dsa_signs_is_the_structure_of_c2sp_tlog_cosignature() -> None:
    message = cosigned_message("a.example/w", 5, Checkpoint("b.example", 9, ROOT))
    assert message == (
        b"subtree/v1\n\x00"
        + b"\x0ba.example/w"
        + struct.pack(">Q", 5)
        + b"\x09b.example"
        + struct.pack(">QQ", 0, 9)
        + ROOT
    )
    line = parse_note(NOTE).signatures[1]
    assert len(line.signature) == 8 + 2420
    stamp = int.from_bytes(line.signature[:8], "big")
    key = MLDSA44PrivateKey.generate()
    own = LogSigner(ORIGIN, Ed25519PrivateKey.generate(), key, clock=lambda: 5)
    signature = parse_note(own.sign(9, ROOT).note).signatures[1].signature
    key.public_key().verify(signature[8:], cosigned_message(ORIGIN, 5, Checkpoint(ORIGIN, 9, ROOT)))
    assert stamp == 1_700_000_000


def test_every_flipped_bit_of_a_checkpoint_is_refused() -> None:
    source = random.Random(5)
    places = [*range(220), *source.sample(range(220, len(NOTE)), 300)]
    for position in places:
        damaged = bytearray(NOTE)
        damaged[position] ^= 1 << source.randrange(8)
        with pytest.raises(AuditError):
            verify_checkpoint(bytes(damaged), SIGNER.keys)
    for end in [*range(0, 200, 7), len(NOTE) - 1]:
        with pytest.raises(AuditError):
            verify_checkpoint(NOTE[:end], SIGNER.keys)


@pytest.mark.parametrize("missing", [ED_LINE, PQ_LINE])
def test_both_algorithms_must_have_signed(missing: str) -> None:
    kept = ED_LINE if missing == PQ_LINE else PQ_LINE
    with pytest.raises(AuditError, match="lacks its"):
        verify_checkpoint(note_with(TEXT, kept), SIGNER.keys)
    # Someone who trusts one key only may do so.
    trusted = [key for key in SIGNER.keys if verify_only(kept, key)]
    assert verify_checkpoint(note_with(TEXT, kept), trusted).signed_by == tuple(trusted)


def verify_only(line: str, key: VerifierKey) -> bool:
    return decode_base64(line.split(" ")[2], "line")[:4] == key.key_id


def test_signatures_of_strangers_count_for_nothing_and_do_no_harm() -> None:
    other = make_signer("other.example/log").sign(7, ROOT).note.decode().split("\n")[4:6]
    assert verify_checkpoint(note_with(TEXT, *other, ED_LINE, PQ_LINE), SIGNER.keys)
    with pytest.raises(AuditError, match="lacks its"):
        verify_checkpoint(note_with(TEXT, *other), SIGNER.keys)
    with pytest.raises(AuditError, match="no trusted key"):
        verify_checkpoint(NOTE, make_signer("other.example/log").keys)
    with pytest.raises(AuditError, match="lacks its"):
        verify_checkpoint(NOTE, make_signer().keys)


def test_a_rotated_log_needs_one_key_of_each_algorithm() -> None:
    both = (*make_signer().keys, *SIGNER.keys)
    assert verify_checkpoint(NOTE, both).signed_by == SIGNER.keys


def test_a_signature_moved_to_another_tree_is_refused() -> None:
    for text in (
        Checkpoint(ORIGIN, 8, ROOT).text(),
        Checkpoint(ORIGIN, 7, bytes(32)).text(),
        Checkpoint("example.com/other", 7, ROOT).text(),
    ):
        with pytest.raises(AuditError):
            verify_checkpoint(note_with(text, ED_LINE, PQ_LINE), SIGNER.keys)


MALFORMED = {
    "extension line": TEXT + "extra\n",
    "two lines": f"{ORIGIN}\n7\n",
    "leading zero": TEXT.replace("\n7\n", "\n07\n"),
    "negative size": TEXT.replace("\n7\n", "\n-7\n"),
    "size beyond 2^63": TEXT.replace("\n7\n", f"\n{2**63}\n"),
    "size in other digits": TEXT.replace("\n7\n", "\n٧\n"),
    "no origin": TEXT.replace(ORIGIN, ""),
    "origin with a space": TEXT.replace(ORIGIN, "a b"),
    "short root": f"{ORIGIN}\n7\n{base64.b64encode(b'short').decode()}\n",
    "root not base64": f"{ORIGIN}\n7\n****\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_checkpoint_text_is_refused(name: str) -> None:
    with pytest.raises(AuditError):
        parse_checkpoint_text(MALFORMED[name])
    with pytest.raises(AuditError):
        verify_checkpoint(note_with(MALFORMED[name], ED_LINE, PQ_LINE), SIGNER.keys)


BAD_NOTES = {
    "empty": b"",
    "no signatures": TEXT.encode(),
    "no final newline": NOTE[:-1],
    "control character": NOTE.replace(b"7", b"\x07", 1),
    "carriage returns": NOTE.replace(b"\n", b"\r\n"),
    "not UTF-8": b"\xff" + NOTE,
    "hyphen for the dash": NOTE.replace("—".encode(), b"-"),
    "no name": NOTE.replace(f"— {ORIGIN} ".encode(), "—  ".encode()),
    "base64 without padding": NOTE.rstrip(b"\n").rstrip(b"=") + b"\n",
    "too many lines": note_with(TEXT, *[ED_LINE] * 17),
    "one key twice": note_with(TEXT, ED_LINE, ED_LINE, PQ_LINE),
    "too long": NOTE + b"x" * (128 << 10),
    "empty signature": note_with(TEXT, f"— {ORIGIN} AAAAAA=="),
}


@pytest.mark.parametrize("name", BAD_NOTES)
def test_malformed_note_is_refused(name: str) -> None:
    with pytest.raises(AuditError):
        verify_checkpoint(BAD_NOTES[name], SIGNER.keys)


def test_vkeys_round_trip_and_comments() -> None:
    assert parse_vkeys(f"# the log\n\n{VKEYS}") == SIGNER.keys
    pair = (Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate())
    lines = verifier_lines(ORIGIN, pair[0].public_key(), pair[1].public_key())
    assert parse_vkeys(lines) == LogSigner(ORIGIN, *pair).keys


ED_KEY = SIGNER.keys[0].line()
BAD_VKEYS = {
    "empty": "",
    "only comments": "# nothing\n",
    "no fields": "hello",
    "wrong id": ED_KEY.replace(SIGNER.keys[0].key_id.hex(), "00000000"),
    "another name": ED_KEY.replace(ORIGIN, "evil.example"),
    "twice": f"{ED_KEY}\n{ED_KEY}",
    "unknown algorithm": f"a+00000000+{base64.b64encode(bytes([4]) + bytes(32)).decode()}",
    "short key": f"a+00000000+{base64.b64encode(bytes([1]) + bytes(31)).decode()}",
    "not base64": "a+00000000+%%%",
    "no key material": "a+00000000+",
}


@pytest.mark.parametrize("name", BAD_VKEYS)
def test_bad_vkeys_are_refused(name: str) -> None:
    with pytest.raises(AuditError):
        parse_vkeys(BAD_VKEYS[name])


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "x" * 256, "a\u2003b"])
def test_bad_origins_are_refused(origin: str) -> None:
    with pytest.raises(AuditError):
        make_signer(origin)


def test_signer_is_loaded_from_key_files(tmp_path: Path) -> None:
    first = key_files.generate(key_files.Algorithm.ED25519)
    second = key_files.generate(key_files.Algorithm.MLDSA44)
    key_files.save_private_key(tmp_path / "log.key", first)
    key_files.save_private_key(tmp_path / "cosigner.key", second)
    signer = LogSigner.load(ORIGIN, tmp_path / "log.key", tmp_path / "cosigner.key")
    assert signer.keys == LogSigner(ORIGIN, first, second).keys
    assert "PRIVATE" not in repr(signer)
    with pytest.raises(KeyFileError):
        LogSigner.load(ORIGIN, tmp_path / "cosigner.key", tmp_path / "log.key")


def test_encode_note_matches_the_signer() -> None:
    parsed = parse_note(NOTE)
    signatures = [
        (key, line.signature) for key, line in zip(SIGNER.keys, parsed.signatures, strict=True)
    ]
    assert encode_note(parsed.text, signatures) == NOTE


def test_base64_has_one_encoding() -> None:
    """The unused bits before the padding must be zero, or a byte could change unnoticed."""
    assert decode_base64("AAA=", "x") == b"\0\0"
    for other in ("AAB=", "AAD=", "AAA", "AAA==", "AA A=", "AAA=\n", "-AA="):
        with pytest.raises(AuditError):
            decode_base64(other, "x")
    root = base64.b64encode(ROOT).decode()
    changed = NOTE.replace(root.encode(), (root[:-2] + chr(ord(root[-2]) + 1) + "=").encode())
    assert changed != NOTE
    with pytest.raises(AuditError, match="canonical"):
        verify_checkpoint(changed, SIGNER.keys)
