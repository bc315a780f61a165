"""What the client does with receipts: verify, keep the newest head, save.

A receipt is checked when the log's keys are known: the log signed it, the entry is
of this call (caller, method, model, version, bundle, request id, and that it succeeded),
and it commits to exactly what was sent and received. A saved receipt holds the key of
its commitments, so only its owner may read it (mode 0600; a folder made for them: 0700).

The newest signed head of the log is remembered, so that `check` can prove that the log
has only grown since; a log that shows two histories to two clients is caught by
comparing what they hold. The answer's text goes nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from casemate.client.errors import ReceiptError
from casemate.client.exchange import Exchange, contradiction
from casemate.client.types import CheckedLog
from security.audit.checkpoint import VerifiedCheckpoint, verify_checkpoint
from security.audit.merkle import verify_consistency
from security.audit.note import VerifierKey, parse_vkeys
from security.audit.receipt import check_answer, check_request, verify_receipt
from security.errors import AuditError
from security.files import PRIVATE_FOLDER_MODE, PRIVATE_MODE, read_bounded, write_atomic

Sink: TypeAlias = Path | str | Callable[[str, bytes], None]
HELD_NAME = "log.checkpoint"
_MAX_NOTE_BYTES = 64 << 10
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class ReceiptKeeper:
    """Verifies and saves the receipts of one client. Thread safe.

    Args:
        vkeys: text of the log's verifier keys; None: receipts are not verified.
        principal: the caller's SPIFFE id, which a verified receipt must name.
        sink: a folder, or a function of (request id, receipt); None: not saved.
        held: where the checked head is kept between runs; None: in memory only.
    """

    def __init__(
        self, *, vkeys: str | None, principal: str, sink: Sink | None, held: Path | None
    ) -> None:
        self._vkeys = vkeys
        self._principal = principal
        self._sink = Path(sink) if isinstance(sink, str) else sink
        self._held = held
        self._seen: VerifiedCheckpoint | None = None
        self._lock = threading.Lock()

    def accept(self, exchange: Exchange) -> None:
        """Verify and save the receipt of an answer.

        Raises:
            ReceiptError: it does not prove this request and answer, or there is none
                although receipts are to be saved.
        """
        trailer = exchange.trailer
        if trailer.receipt is None:
            if self._sink is not None:
                raise ReceiptError(
                    "the appliance sent no receipt with this answer",
                    request_id=trailer.request_id,
                )
            return
        if self._vkeys is not None:
            self._verify(trailer.receipt, exchange)
        if isinstance(self._sink, Path):
            self._save(self._sink, trailer.request_id, trailer.receipt)
        elif self._sink is not None:
            self._sink(trailer.request_id, trailer.receipt)

    def heads(self) -> tuple[VerifiedCheckpoint, ...]:
        """Return the heads that the log must still contain, oldest first.

        Raises:
            AuditError: the saved one is damaged.
        """
        found = []
        if self._held is not None and self._held.exists():
            note = read_bounded(self._held, _MAX_NOTE_BYTES)
            found.append(verify_checkpoint(note, self._keys()))
        if self._seen is not None:
            found.append(self._seen)
        return tuple(sorted(found, key=lambda head: head.checkpoint.size))

    def newest(self, note: bytes) -> VerifiedCheckpoint:
        """Verify a checkpoint's signatures; raises AuditError."""
        return verify_checkpoint(note, self._keys())

    def confirm(
        self,
        new: VerifiedCheckpoint,
        proofs: Iterable[tuple[VerifiedCheckpoint, tuple[bytes, ...]]],
    ) -> CheckedLog:
        """Check that the log only grew to `new`, and hold it from now on.

        Raises:
            AuditError: the log has lost or changed entries.
        """
        held_size = 0
        for old, hashes in proofs:
            before, after = old.checkpoint, new.checkpoint
            if before.origin != after.origin:
                raise AuditError(f"{after.origin!r} is another log than {before.origin!r}")
            verify_consistency(before.size, after.size, before.root, after.root, hashes)
            held_size = before.size
        with self._lock:
            self._seen = new
            if self._held is not None:
                try:
                    write_atomic(self._held, new.note)
                except OSError as error:
                    raise AuditError(
                        f"the log is consistent; {self._held} cannot be written: {error.strerror}"
                    ) from error
        return CheckedLog(new.checkpoint.origin, new.checkpoint.size, held_size)

    def _keys(self) -> tuple[VerifierKey, ...]:
        if self._vkeys is None:
            raise AuditError("this identity has no log.vkeys, so the log cannot be checked")
        return parse_vkeys(self._vkeys)

    def _verify(self, data: bytes, exchange: Exchange) -> None:
        request_id = exchange.trailer.request_id
        try:
            verified = verify_receipt(data, self._vkeys or "")
        except AuditError as error:
            raise ReceiptError(
                f"the receipt is not valid: {error}", request_id=request_id
            ) from error
        if wrong := contradiction(verified.entry, exchange, self._principal):
            raise ReceiptError(
                f"the receipt is not of this call: its {wrong} is another", request_id=request_id
            )
        if not check_request(verified, exchange.request_parts):
            raise ReceiptError(
                "the receipt does not commit to the request as it was sent", request_id=request_id
            )
        if not check_answer(verified, exchange.answer_parts):
            raise ReceiptError(
                "the receipt does not commit to the answer as it arrived", request_id=request_id
            )
        with self._lock:
            seen = self._seen
            if seen is None or seen.checkpoint.size < verified.head.checkpoint.size:
                self._seen = verified.head

    def _save(self, folder: Path, request_id: str, data: bytes) -> None:
        if not request_id or not set(request_id) <= _NAME_CHARS or len(request_id) > 128:
            raise ReceiptError("the request id is not usable as a file name")
        folder.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        write_atomic(folder / f"{request_id}.json", data, PRIVATE_MODE)
