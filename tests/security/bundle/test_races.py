"""Somebody changes files while they are verified: what was verified is what is used."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from security.bundle.opening import open_bundle
from security.errors import BundleError
from tests.support.forged_bundles import NOW, PROBES, make_signed, trusting

ROUNDS = 1_000
Attack = Callable[[str, Event, Event], None]
EVIL = b"E" * len(PROBES)


def _swap_for_ever(path: str, started: Event, stop: Event) -> None:
    """Put the good and the evil file in place in turn, each by one rename."""
    target = Path(path) / "probes.jsonl"
    outside = Path(path).parent
    for name, data in (("good", PROBES), ("evil", EVIL)):
        (outside / name).write_bytes(data)
        (outside / name).chmod(0o644)
    while not stop.is_set():
        for name in ("evil", "good"):
            spare = outside / f"{name}.spare"
            spare.write_bytes((outside / name).read_bytes())
            spare.chmod(0o644)
            spare.replace(target)
            started.set()


def _write_for_ever(path: str, started: Event, stop: Event) -> None:
    """Overwrite the same file in place, as a holder of a descriptor could."""
    fd = os.open(Path(path) / "probes.jsonl", os.O_WRONLY)
    while not stop.is_set():
        os.pwrite(fd, EVIL, 0)
        os.pwrite(fd, PROBES, 0)
        started.set()
    os.close(fd)


def _link_for_ever(path: str, started: Event, stop: Event) -> None:
    """Turn the directory of the model into a symbolic link and back."""
    variants = Path(path) / "variants"
    outside = Path(path).parent / "outside"
    while not stop.is_set():
        variants.rename(outside)
        variants.symlink_to(outside)
        started.set()
        variants.unlink()
        outside.rename(variants)


@contextmanager
def _attacker(work: Attack, path: Path) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    started, stop = context.Event(), context.Event()
    process = context.Process(target=work, args=(str(path), started, stop))
    process.start()
    try:
        assert started.wait(10)
        yield
    finally:
        stop.set()
        process.join(10)
    assert process.exitcode == 0


@pytest.mark.parametrize("work", [_swap_for_ever, _write_for_ever, _link_for_ever])
def test_a_file_swapped_during_opening_never_wins(work: Attack, tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    trust = trusting()
    wins = opened = refused = 0
    with _attacker(work, path):
        for _ in range(ROUNDS // 3 + 1):
            try:
                with open_bundle(path, trust, now=NOW) as bundle:
                    opened += 1
                    probes = bundle.files["probes.jsonl"]
                    wins += probes.read() != PROBES
                    wins += hashlib.sha256(probes.read()).hexdigest() != probes.sha256
            except BundleError:
                refused += 1
    assert wins == 0
    assert opened + refused == ROUNDS // 3 + 1


def test_changes_after_opening_do_not_reach_what_was_opened(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    with open_bundle(path, trusting(), now=NOW) as bundle:
        (path / "probes.jsonl").write_bytes(EVIL)
        (path / "variants/default/model.gguf").unlink()
        assert bundle.files["probes.jsonl"].read() == PROBES
        model = bundle.files["variants/default/model.gguf"]
        assert hashlib.sha256(model.read()).hexdigest() == model.sha256
