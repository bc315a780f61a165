"""Encrypting a private key under a passphrase, as PKCS#8 that every tool reads.

Why this is here: `cryptography` derives the key with 2,048 rounds of PBKDF2, which
a graphics card tries tens of millions of times a second. An offline root is only as
good as that figure, so the same format (RFC 8018 PBES2) is written with 600,000.

It only encrypts. Reading is left to `cryptography`, which honours the count.
"""

from __future__ import annotations

import base64
import os

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

# OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256.
PBKDF2_ROUNDS = 600_000
SALT_BYTES = 16
AES_BLOCK_BYTES = 16
AES_KEY_BYTES = 32

# Object identifiers, DER-encoded with tag and length.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES256_CBC = bytes.fromhex("060960864801650304012a")
_NULL = b"\x05\x00"

_SEQUENCE = 0x30
_OCTET_STRING = 0x04
_INTEGER = 0x02


def encrypt(private_key_info: bytes, passphrase: bytes) -> bytes:
    """Return PEM "ENCRYPTED PRIVATE KEY": PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC.

    Args:
        private_key_info: DER PrivateKeyInfo (unencrypted PKCS#8).
        passphrase: not empty; the caller enforces its length.
    """
    salt = os.urandom(SALT_BYTES)
    iv = os.urandom(AES_BLOCK_BYTES)
    key = PBKDF2HMAC(hashes.SHA256(), AES_KEY_BYTES, salt, PBKDF2_ROUNDS).derive(passphrase)
    padder = padding.PKCS7(AES_BLOCK_BYTES * 8).padder()
    padded = padder.update(private_key_info) + padder.finalize()
    cipher = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    encrypted = cipher.update(padded) + cipher.finalize()

    derivation = _der(
        _SEQUENCE,
        _der(_OCTET_STRING, salt)
        + _der(_INTEGER, PBKDF2_ROUNDS.to_bytes(PBKDF2_ROUNDS.bit_length() // 8 + 1, "big"))
        + _der(_SEQUENCE, _HMAC_SHA256 + _NULL),
    )
    parameters = _der(
        _SEQUENCE,
        _der(_SEQUENCE, _PBKDF2 + derivation)
        + _der(_SEQUENCE, _AES256_CBC + _der(_OCTET_STRING, iv)),
    )
    algorithm = _der(_SEQUENCE, _PBES2 + parameters)
    return _pem(
        "ENCRYPTED PRIVATE KEY", _der(_SEQUENCE, algorithm + _der(_OCTET_STRING, encrypted))
    )


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(digits))) + digits + content


def _pem(label: str, der: bytes) -> bytes:
    body = base64.b64encode(der)
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    text = b"\n".join(lines)
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label.encode(), text, label.encode())
