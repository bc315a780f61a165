"""What the audit tests share: keys made once, entries, and a folder from memory."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from security.audit.entry import AuditEntry
from security.audit.signer import LogSigner
from tests.audit.memory_files import MemoryFiles

ORIGIN = "example.com/test-log"


def make_signer(origin: str = ORIGIN) -> LogSigner:
    return LogSigner(
        origin,
        Ed25519PrivateKey.generate(),
        MLDSA44PrivateKey.generate(),
        clock=lambda: 1_700_000_000,
    )


SIGNER = make_signer()
VKEYS = "".join(f"{key.line()}\n" for key in SIGNER.keys)


def entry_bytes(number: int) -> bytes:
    return AuditEntry(kind="admitted", time_ms=number, request_id=f"r{number}").encode()


def dump(files: MemoryFiles, folder: Path) -> None:
    for name, content in files.contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
