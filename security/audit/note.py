"""C2SP signed-note: text under signature lines, and the keys that check them.

A verifier key ("vkey") is one line: `<name>+<key id, 8 hex digits>+<base64 of the
algorithm byte and the public key>`. This module knows two algorithms: Ed25519
(0x01, signed-note) and ML-DSA-44 (0x06, tlog-cosignature). It refuses every
other, and every encoding but the canonical one, so that no byte of a note can
change unnoticed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from security.errors import AuditError

ED25519 = 0x01
MLDSA44 = 0x06
ALGORITHM_NAMES = {ED25519: "Ed25519", MLDSA44: "ML-DSA-44"}
_PUBLIC_BYTES = {ED25519: 32, MLDSA44: 1312}

NOTE_MAX_BYTES = 128 << 10
NOTE_MAX_SIGNATURES = 16
_VKEYS_MAX_BYTES = 1 << 20
_KEY_ID_BYTES = 4
_DASH = "— "


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key, its algorithm byte and the name it signs under."""

    name: str
    algorithm: int
    public: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        expected = _PUBLIC_BYTES.get(self.algorithm)
        if expected is None:
            raise AuditError(f"log key {self.name!r}: unknown algorithm 0x{self.algorithm:02x}")
        if len(self.public) != expected:
            raise AuditError(f"log key {self.name!r}: the public key must have {expected} bytes")

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name || newline || algorithm || public key)."""
        message = self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public
        return hashlib.sha256(message).digest()[:_KEY_ID_BYTES]

    def line(self) -> str:
        """Return the vkey, without a newline."""
        material = base64.b64encode(bytes([self.algorithm]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who claims to have signed, and the bytes to check."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. Nothing in it is trusted before its signatures are checked."""

    text: str
    signatures: tuple[NoteSignature, ...]


def check_key_name(name: str) -> None:
    """Raise AuditError unless `name` may be a key name and an origin line."""
    bad = any(c.isspace() or c == "+" or ord(c) < 0x20 for c in name)
    if not name or bad or len(name.encode(errors="replace")) > 255:
        raise AuditError("a log name has 1 to 255 bytes without spaces, control characters or '+'")


def parse_vkeys(text: str) -> tuple[VerifierKey, ...]:
    """Return the keys of a vkeys file: one a line, blank lines and # comments allowed.

    Raises:
        AuditError: a line is malformed, or there is no key at all.
    """
    if len(text) > _VKEYS_MAX_BYTES:
        raise AuditError(f"a file of log keys has at most {_VKEYS_MAX_BYTES} bytes")
    keys: list[VerifierKey] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        key = _parse_vkey(line.strip(), number)
        if key in keys:
            raise AuditError(f"log keys, line {number}: the key is listed twice")
        keys.append(key)
    if not keys:
        raise AuditError("the file of log keys lists no key")
    return tuple(keys)


def _parse_vkey(line: str, number: int) -> VerifierKey:
    name, _, rest = line.partition("+")
    key_id, _, material = rest.partition("+")
    raw = decode_base64(material, f"log keys, line {number}")
    if not raw:
        raise AuditError(f"log keys, line {number}: not of the form name+id+key")
    key = VerifierKey(name, raw[0], raw[1:])
    if key.key_id.hex() != key_id:
        raise AuditError(f"log keys, line {number}: the key id does not belong to the key")
    return key


def parse_note(data: bytes) -> Note:
    """Split a note into its text and its signature lines.

    Raises:
        AuditError: the note is not well-formed.
    """
    if len(data) > NOTE_MAX_BYTES:
        raise AuditError(f"a signed note has at most {NOTE_MAX_BYTES} bytes")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise AuditError("the signed note is not valid UTF-8") from error
    if any(ord(c) < 0x20 and c != "\n" for c in note):
        raise AuditError("the signed note holds a control character")
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise AuditError("the signed note has no signature lines")
    lines = tail[:-1].split("\n")
    if len(lines) > NOTE_MAX_SIGNATURES:
        raise AuditError(f"a signed note has at most {NOTE_MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise AuditError("a signature line of the note is malformed")
    check_key_name(name)
    raw = decode_base64(encoded, "a signature line of the note")
    if len(raw) <= _KEY_ID_BYTES:
        raise AuditError("a signature line of the note is too short")
    return NoteSignature(name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])


def encode_note(text: str, signatures: Sequence[tuple[VerifierKey, bytes]]) -> bytes:
    """Return the note: the text, a blank line, and a line for each signature."""
    lines = "".join(
        f"{_DASH}{key.name} {base64.b64encode(key.key_id + signature).decode()}\n"
        for key, signature in signatures
    )
    return f"{text}\n{lines}".encode()


def decode_base64(text: str, what: str) -> bytes:
    """Decode standard base64 in its one canonical encoding.

    Raises:
        AuditError: not base64, or not canonical (stray bits, missing padding).
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AuditError(f"{what}: not valid base64") from error
    if base64.b64encode(raw).decode() != text:
        raise AuditError(f"{what}: the base64 is not canonical")
    return raw
