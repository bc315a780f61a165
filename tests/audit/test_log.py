"""AuditLog: group commit, futures, receipts, refusal and recovery, kill -9, the lock."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from security import keys as key_files
from security.audit.checkpoint import Checkpoint, verify_checkpoint
from security.audit.config import LogConfig
from security.audit.files import AppendFile, RealFiles
from security.audit.log import AuditLog
from security.audit.merkle import verify_consistency, verify_inclusion
from security.audit.proof import parse_proof
from security.audit.published import PublishedLog
from security.audit.signer import LogSigner
from security.audit.tiles import split_bundle
from security.audit.verify import verify_log
from security.errors import AuditError, UsageError
from tests.audit.support import ORIGIN, SIGNER, entry_bytes

CONFIG = LogConfig(publish_interval_seconds=30)
TIMEOUT = 60


class Gate(RealFiles):
    """Real files whose flushes wait, are counted, or fail, as a test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()
        self.flushes = 0
        self.error = 0

    def check(self) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def write_synced(self, name: str, data: bytes) -> None:
        self.check()
        super().write_synced(name, data)

    def open_append(self, name: str) -> AppendFile:
        return GateFile(self, super().open_append(name))


class GateFile:
    def __init__(self, gate: Gate, file: AppendFile) -> None:
        self._gate = gate
        self._file = file

    def append(self, data: bytes) -> None:
        self._gate.check()
        self._file.append(data)

    def sync(self) -> None:
        self._gate.waiting.set()
        assert self._gate.open.wait(TIMEOUT)
        self._gate.check()
        self._gate.flushes += 1
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def head_of(note: bytes, signer: LogSigner = SIGNER) -> Checkpoint:
    return verify_checkpoint(note, signer.keys).checkpoint


def results(futures: list[Future[Any]]) -> list[Any]:
    wait(futures, TIMEOUT)
    return [future.result(0) for future in futures]


def test_entries_get_indices_in_order_and_the_folder_verifies(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG) as log:
        futures = [log.append(entry_bytes(number)) for number in range(700)]
        assert results(futures) == list(range(700))
        assert log.size == 700
        assert log.healthy
        assert log.failure == ""
        found = split_bundle(log.entries(2, 700 - 512))
        assert found == [entry_bytes(number) for number in range(512, 700)]
        assert len(log.tile(0, 0)) == 8192
    assert verify_log(tmp_path, SIGNER.keys).entries == 700
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG) as log:
        assert log.append(entry_bytes(700)).result(TIMEOUT) == 700
        assert split_bundle(log.entries(0)) == [entry_bytes(number) for number in range(256)]


def test_a_batch_gathers_while_the_disk_flushes(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG, files=gate) as log:
        gate.open.clear()
        gate.waiting.clear()
        futures = [log.append(entry_bytes(0))]
        assert gate.waiting.wait(TIMEOUT)
        futures += [log.append(entry_bytes(number)) for number in range(1, 500)]
        assert not any(future.done() for future in futures)
        assert log.size == 0
        gate.open.set()
        assert results(futures) == list(range(500))
        assert gate.flushes == 2


def test_receipts_share_signatures_and_prove_their_entries(tmp_path: Path) -> None:
    signed: list[int] = []

    class Counting(LogSigner):
        def sign(self, size: int, root: bytes) -> Any:
            signed.append(size)
            return super().sign(size, root)

    signer = Counting(ORIGIN, SIGNER._ed25519_key, SIGNER._mldsa44_key)
    with AuditLog.open(tmp_path, signer, config=CONFIG) as log:
        results([log.append(entry_bytes(number)) for number in range(1000)])
        signed.clear()
        proofs = results([log.receipt_for(index) for index in range(1000)])
        assert len(signed) == 1
        for index in range(0, 1000, 37):
            text = proofs[index].encode()
            head = parse_proof(text).verify(entry_bytes(index), SIGNER.keys).checkpoint
            assert head.size == 1000
        with pytest.raises(AuditError):
            proofs[3].verify(entry_bytes(4), SIGNER.keys)
        with pytest.raises(UsageError, match="no entry"):
            log.receipt_for(1000).result(TIMEOUT)
        with pytest.raises(UsageError, match="no entry"):
            log.receipt_for(-1).result(TIMEOUT)


def test_receipts_may_be_awaited(tmp_path: Path) -> None:
    async def one(log: AuditLog, number: int) -> int:
        index = await asyncio.wrap_future(log.append(entry_bytes(number)))
        proof = await asyncio.wrap_future(log.receipt_for(index))
        return proof.verify(entry_bytes(number), SIGNER.keys).checkpoint.size

    async def many(log: AuditLog) -> list[int]:
        return await asyncio.gather(*(one(log, number) for number in range(50)))

    with AuditLog.open(tmp_path, SIGNER, config=CONFIG) as log:
        assert max(asyncio.run(many(log))) == 50


def test_a_cancelled_wait_does_not_withdraw_the_entry(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG, files=gate) as log:
        gate.open.clear()
        future = log.append(entry_bytes(0))
        assert not future.cancel()
        gate.open.set()
        assert future.result(TIMEOUT) == 0


def test_proofs_and_checkpoints_between_any_sizes(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG) as log:
        heads = []
        for size in (1, 255, 256, 300, 513):
            results([log.append(entry_bytes(number)) for number in range(log.size, size)])
            note = log.checkpoint()
            assert log.checkpoint() is note
            heads.append(head_of(note))
        for old in heads:
            for new in heads:
                if old.size <= new.size:
                    proof = log.prove_consistency(old.size, new.size)
                    verify_consistency(old.size, new.size, old.root, new.root, proof)
            path = log.prove_inclusion(0, old.size)
            leaf = log.tile(0, 0, 1)
            verify_inclusion(0, old.size, leaf, path, old.root)
        for call in (
            lambda: log.prove_inclusion(0, 514),
            lambda: log.prove_inclusion(300, 300),
            lambda: log.prove_consistency(1, 514),
            lambda: log.entries(2, 2),
            lambda: log.entries(-1, 1),
            lambda: log.tile(0, 2, 2),
            lambda: log.tile(5, 0, 1),
            lambda: log.append(b""),
            lambda: log.append(b"x" * 65_536),
        ):
            with pytest.raises(UsageError):
                call()


def test_largest_entry(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG) as log:
        assert log.append(b"x" * 65_535).result(TIMEOUT) == 0
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG) as log:
        assert split_bundle(log.entries(0, 1)) == [b"x" * 65_535]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_after_an_error_of_the_disk_it_refuses_until_recovered(tmp_path: Path, error: int) -> None:
    gate = Gate(tmp_path)
    with AuditLog.open(tmp_path, SIGNER, config=CONFIG, files=gate) as log:
        results([log.append(entry_bytes(number)) for number in range(300)])
        gate.error = error
        with pytest.raises(AuditError, match=os.strerror(error)):
            log.append(b"lost").result(TIMEOUT)
        assert os.strerror(error) in log.failure
        # Refused at once, without touching the disk; what is durable can be read and proven.
        assert isinstance(log.append(b"refused").exception(0), AuditError)
        proof = log.receipt_for(299).result(TIMEOUT)
        proof.verify(entry_bytes(299), SIGNER.keys)
        assert [log.probe_recovery(), log.healthy] == [False, False]
        gate.error = 0
        assert [log.probe_recovery(), log.probe_recovery(), log.healthy] == [True, True, True]
        assert log.size == 300
        assert log.append(entry_bytes(300)).result(TIMEOUT) == 300
    assert verify_log(tmp_path, SIGNER.keys).entries == 301


def test_an_error_while_publishing_stops_the_log(tmp_path: Path) -> None:
    class FullProjection(Gate):
        def write_synced(self, name: str, data: bytes) -> None:
            if "tile" in name and not self.open.is_set():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write_synced(name, data)

    files = FullProjection(tmp_path)
    config = LogConfig(publish_max_entries=10, publish_interval_seconds=30)
    with AuditLog.open(tmp_path, SIGNER, config=config, files=files) as log:
        results([log.append(entry_bytes(number)) for number in range(5)])
        files.open.clear()
        log._publish_once()
        assert "cannot publish" in log.failure
        with pytest.raises(AuditError):
            log.append(b"no").result(TIMEOUT)
        files.open.set()
        assert log.probe_recovery()
        assert log.append(entry_bytes(5)).result(TIMEOUT) == 5


def test_recovery_refuses_a_log_that_lost_what_it_signed(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    log = AuditLog.open(tmp_path, SIGNER, config=CONFIG, files=gate)
    results([log.append(entry_bytes(0))])
    log.checkpoint()
    gate.error = errno.EIO
    with pytest.raises(AuditError):
        log.append(b"x").result(TIMEOUT)
    gate.error = 0
    segment = next((tmp_path / "segments").iterdir())
    segment.write_bytes(segment.read_bytes()[:20])
    assert not log.probe_recovery()
    assert "entries were lost" in log.failure
    log.close()


def test_the_publisher_keeps_up_by_itself(tmp_path: Path) -> None:
    config = LogConfig(publish_interval_seconds=0.01)
    with AuditLog.open(tmp_path, SIGNER, config=config) as log:
        results([log.append(entry_bytes(number)) for number in range(20)])
        deadline = threading.Event()
        for _ in range(TIMEOUT * 100):
            if PublishedLog(tmp_path, SIGNER.keys).size == 20:
                break
            deadline.wait(0.01)
        assert PublishedLog(tmp_path, SIGNER.keys).size == 20


def test_memory_is_bounded_by_publishing_inline(tmp_path: Path) -> None:
    config = LogConfig(
        publish_interval_seconds=30,
        publish_max_entries=50,
        unpublished_max_entries=50,
        batch_max_entries=10,
    )
    with AuditLog.open(tmp_path, SIGNER, config=config) as log:
        results([log.append(entry_bytes(number)) for number in range(600)])
        assert PublishedLog(tmp_path, SIGNER.keys).size >= 540
        assert len(log._store._tail) <= 256 + 60


def test_a_damaged_tile_becomes_an_error_not_a_false_receipt(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, SIGNER, config=LogConfig(cached_tiles=1)) as log:
        results([log.append(entry_bytes(number)) for number in range(700)])
        log._publish_once()
        log.receipt_for(300).result(TIMEOUT)  # puts another tile into the cache
        tile = tmp_path / "tile/0/000"
        tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
        with pytest.raises(AuditError, match="does not lead to the root"):
            log.receipt_for(1).result(TIMEOUT)
        log.receipt_for(300).result(TIMEOUT)
        tile.unlink()
        with pytest.raises(AuditError, match="cannot be read"):
            log.receipt_for(1).result(TIMEOUT)


def test_a_full_queue_and_a_closed_log_refuse(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    log = AuditLog.open(tmp_path, SIGNER, config=LogConfig(queue_max_entries=2), files=gate)
    gate.open.clear()
    gate.waiting.clear()
    first = log.append(b"1")
    assert gate.waiting.wait(TIMEOUT)
    queued = [log.append(b"2"), log.append(b"3")]
    with pytest.raises(AuditError, match="full"):
        log.append(b"4").result(0)
    gate.open.set()
    assert results([first, *queued]) == [0, 1, 2]
    log.close()
    log.close()
    for refused in (log.append(b"5"), log.receipt_for(0)):
        with pytest.raises(AuditError, match="closed"):
            refused.result(0)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        AuditLog.open(tmp_path, SIGNER),
        pytest.raises(AuditError, match="open in another process"),
    ):
        AuditLog.open(tmp_path, SIGNER)
    AuditLog.open(tmp_path, SIGNER).close()


def _cut_segment(folder: Path) -> None:
    segment = next((folder / "segments").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])


def _foreign_checkpoint(folder: Path) -> None:
    other = AuditLog.open(folder / "other", SIGNER)
    results([other.append(b"another history") for _ in range(3)])
    other.close()
    (folder / "other" / "checkpoint").rename(folder / "checkpoint")


def _no_segments(folder: Path) -> None:
    for path in (folder / "segments").iterdir():
        path.unlink()


def _renamed_segment(folder: Path) -> None:
    segment = next((folder / "segments").iterdir())
    segment.rename(segment.with_name("00000000000000000001.segment"))


def _garbage_checkpoint(folder: Path) -> None:
    (folder / "checkpoint").write_bytes(b"garbage")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_segment, "entries were lost"),
        (_foreign_checkpoint, "are not those of its signed"),
        (_no_segments, "segments are missing"),
        (_renamed_segment, "not named after"),
        (_garbage_checkpoint, "signature"),
    ],
)
def test_a_damaged_log_is_not_opened(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    with AuditLog.open(tmp_path, SIGNER) as log:
        results([log.append(entry_bytes(number)) for number in range(3)])
    damage(tmp_path)
    with pytest.raises(AuditError, match=message):
        AuditLog.open(tmp_path, SIGNER)


def test_a_lost_checkpoint_beyond_the_first_segment_is_not_opened(tmp_path: Path) -> None:
    config = LogConfig(segment_max_bytes=5_000)
    with AuditLog.open(tmp_path, SIGNER, config=config) as log:
        for start in range(0, 600, 50):
            results([log.append(entry_bytes(number)) for number in range(start, start + 50)])
            log._publish_once()
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(AuditError, match="restore the whole folder"):
        AuditLog.open(tmp_path, SIGNER, config=config)


def test_an_unusable_folder_is_an_audit_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be opened"):
        AuditLog.open(tmp_path / "file", SIGNER)


CHILD = """
import itertools, sys
from pathlib import Path
from security.audit.config import LogConfig
from security.audit.log import AuditLog
from security.audit.signer import LogSigner
folder = Path(sys.argv[1])
signer = LogSigner.load("example.com/test-log", folder / "log.key", folder / "cosigner.key")
config = LogConfig(publish_interval_seconds=0.02, segment_max_bytes=30_000)
log = AuditLog.open(folder / "log", signer, config=config)
def report(entry):
    def done(future):
        print(future.result(), entry.decode(), flush=True)
    return done
for number in itertools.count():
    entry = b"entry-%d-%d" % (int(sys.argv[2]), number)
    future = log.append(entry)
    future.add_done_callback(report(entry))
    if number % 40 == 39:
        future.result()
"""


def test_ten_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for name, algorithm in (
        ("log.key", key_files.Algorithm.ED25519),
        ("cosigner.key", key_files.Algorithm.MLDSA44),
    ):
        key_files.save_private_key(tmp_path / name, key_files.generate(algorithm))
    signer = LogSigner.load(ORIGIN, tmp_path / "log.key", tmp_path / "cosigner.key")
    acknowledged: dict[int, bytes] = {}
    held = b""
    for life in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(life)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        for _ in range(60 + 45 * life):
            acknowledge(acknowledged, child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                acknowledge(acknowledged, line)
        child.wait()
        child.stdout.close()
        with AuditLog.open(tmp_path / "log", signer) as log:
            assert log.size > max(acknowledged)
            for start in range(0, log.size, 256):
                found = split_bundle(log.entries(start // 256, min(256, log.size - start)))
                for offset, entry in enumerate(found):
                    assert acknowledged.get(start + offset, entry) == entry
            if held:
                old, new = head_of(held, signer), head_of(log.checkpoint(), signer)
                proof = log.prove_consistency(old.size, new.size)
                verify_consistency(old.size, new.size, old.root, new.root, proof)
            held = log.checkpoint()
    assert len(acknowledged) > 2000


def acknowledge(acknowledged: dict[int, bytes], line: bytes) -> None:
    index, _, entry = line.rstrip(b"\n").partition(b" ")
    assert int(index) not in acknowledged
    acknowledged[int(index)] = entry
