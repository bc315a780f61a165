"""Every step of every operation, stopped before, within and after: old or new, nothing else."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.store import State, Store, StoreError
from security.bundle.opening import open_bundle
from tests.store.conftest import Versions
from tests.store.crashing import FullFilesystem, PowerCut, PowerCutFilesystem

Operation = Callable[[Store, Versions], None]
MAX_STEPS = 100


def stage(store: Store, versions: Versions) -> None:
    store.stage(versions["1.2.0"])


def switch(store: Store, versions: Versions) -> None:
    """What the catalog does when probes have passed; staging and probing came before."""
    store.move(
        (store.get("tiny-tensor", "1.2.0"), State.LIVE, "passed"),
        (store.get("tiny-tensor", "1.0.0"), State.RETIRED, "replaced"),
        (store.get("tiny-tensor", "1.1.0"), State.PREVIOUS, "replaced"),
    )


def roll_back(store: Store, versions: Versions) -> None:
    store.move(
        (store.get("tiny-tensor", "1.0.0"), State.LIVE, "rolled back"),
        (store.get("tiny-tensor", "1.1.0"), State.PREVIOUS, "rolled back"),
    )


def prepared(operation: Operation, store: Store, versions: Versions) -> None:
    if operation is switch:
        record = store.stage(versions["1.2.0"])
        store.move((record, State.PROBING, "being probed"))


def seen(store: Store) -> dict[str, str]:
    """The states; one that was being probed counts as staged, which it is after a crash."""
    return {
        record.version: "staged" if record.state is State.PROBING else record.state.value
        for record in store.versions()
    }


def check_whole(store: Store, versions: Versions) -> None:
    """Everything the journal names verifies, and nothing else lies about."""
    named = {store.path_of(record) for record in store.versions()}
    for path in named:
        open_bundle(path, versions.trust).close()
    bundles = store.folder / "bundles"
    assert {path for model in bundles.iterdir() for path in model.iterdir()} == named


@pytest.mark.parametrize("lose_unsynced", [False, True], ids=["killed", "power-cut"])
@pytest.mark.parametrize("moment", ["before", "half", "after"])
@pytest.mark.parametrize("operation", [stage, switch, roll_back])
def test_old_or_new_after_a_stop_at_every_step(
    two_live: Path,
    tmp_path: Path,
    versions: Versions,
    operation: Operation,
    moment: str,
    lose_unsynced: bool,
) -> None:
    with Store.open(two_live) as store:
        prepared(operation, store, versions)
        old = seen(store)
    done = shutil.copytree(two_live, tmp_path / "done")
    with Store.open(done) as store:
        if operation is switch:
            store.move((store.get("tiny-tensor", "1.2.0"), State.PROBING, "again"))
        operation(store, versions)
        new = seen(store)
    assert old != new

    for stop_at in range(MAX_STEPS):
        folder = shutil.copytree(two_live, tmp_path / f"at-{stop_at}")
        filesystem = PowerCutFilesystem()
        store = Store.open(folder, filesystem=filesystem)
        if operation is switch:
            store.move((store.get("tiny-tensor", "1.2.0"), State.PROBING, "again"))
        filesystem.arm(stop_at, moment)
        stopped = False
        try:
            operation(store, versions)
        except PowerCut:
            stopped = True
        filesystem.cut(lose_unsynced=lose_unsynced)
        store.close()
        with Store.open(folder) as after:
            assert seen(after) in ([old, new] if stopped else [new]), f"at step {stop_at}"
            check_whole(after, versions)
            # And the operation can be done, or is done, from there.
            if operation is stage:
                stage(after, versions)
                assert seen(after) == new
        shutil.rmtree(folder)
        if not stopped:
            assert stop_at > 1
            return
    pytest.fail(f"the operation takes over {MAX_STEPS} steps")


def test_a_stop_while_recovering_is_recovered_from(
    two_live: Path, tmp_path: Path, versions: Versions
) -> None:
    with Store.open(two_live) as store:
        record = store.stage(versions["1.2.0"])
        store.move((record, State.PROBING, "being probed"))
        (store.folder / "bundles" / ".incoming-1").mkdir()
    with (two_live / "journal").open("ab") as journal:
        journal.write(b"0000")
    for stop_at in range(MAX_STEPS):
        folder = shutil.copytree(two_live, tmp_path / f"at-{stop_at}")
        filesystem = PowerCutFilesystem()
        filesystem.arm(stop_at, "before")
        stopped = False
        try:
            Store.open(folder, filesystem=filesystem).close()
        except PowerCut:
            stopped = True
        filesystem.cut(lose_unsynced=True)
        with Store.open(folder) as after:
            assert seen(after) == {"1.0.0": "previous", "1.1.0": "live", "1.2.0": "staged"}
            check_whole(after, versions)
        if not stopped:
            assert stop_at > 2
            return
    pytest.fail(f"opening takes over {MAX_STEPS} steps")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["disk-full", "io-error"])
@pytest.mark.parametrize("operation", [stage, roll_back])
def test_a_refused_step_leaves_the_old_state_and_says_why(
    two_live: Path, tmp_path: Path, versions: Versions, operation: Operation, code: int
) -> None:
    for refuse_at in range(MAX_STEPS):
        folder = shutil.copytree(two_live, tmp_path / f"at-{refuse_at}")
        filesystem = FullFilesystem(code)
        store = Store.open(folder, filesystem=filesystem)
        old = seen(store)
        filesystem.arm(refuse_at)
        refused: StoreError | None = None
        try:
            operation(store, versions)
        except StoreError as error:
            refused = error
        if refused is None:
            store.close()
            assert refuse_at > 1
            return
        assert refused.reason == ("disk-full" if code == errno.ENOSPC else "io")
        assert "nothing was changed" in str(refused)
        assert seen(store) == old
        store.close()
        with Store.open(folder) as after:
            assert seen(after) == old
            check_whole(after, versions)
    pytest.fail(f"the operation takes over {MAX_STEPS} steps")
