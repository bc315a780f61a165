from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.store import JournalDamaged, State, Store, StoreError, StoreLocked
from security.bundle.opening import open_bundle
from tests.store.conftest import Versions, go_live


def states(store: Store) -> dict[str, State]:
    return {record.version: record.state for record in store.versions()}


def test_a_staged_bundle_verifies_from_the_store(tmp_path: Path, versions: Versions) -> None:
    with Store.open(tmp_path / "store") as store:
        record = store.stage(versions["1.0.0"])
        with open_bundle(store.path_of(record), versions.trust) as again:
            assert again.digest == record.digest == versions["1.0.0"].digest


def test_the_state_is_there_after_closing(two_live: Path) -> None:
    with Store.open(two_live) as store:
        assert states(store) == {"1.0.0": State.PREVIOUS, "1.1.0": State.LIVE}


def test_a_second_appliance_on_one_store_is_refused(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "store")
    with pytest.raises(StoreLocked, match="second appliance on one store"):
        Store.open(tmp_path / "store")
    first.close()
    Store.open(tmp_path / "store").close()


def test_another_process_is_refused_too(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from runtime.store import Store\n"
    code += "Store.open(Path(sys.argv[1]))"
    with Store.open(tmp_path / "store"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "store")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert "StoreLocked" in done.stderr


def test_the_same_content_twice_is_no_error(two_live: Path, versions: Versions) -> None:
    with Store.open(two_live) as store:
        assert store.stage(versions["1.1.0"]).state is State.LIVE
        assert store.stage(versions["1.0.0"]).state is State.PREVIOUS


def test_a_failed_version_is_copied_again_when_installed_again(
    tmp_path: Path, versions: Versions
) -> None:
    with Store.open(tmp_path / "store") as store:
        record = store.stage(versions["1.0.0"])
        store.move((record, State.PROBING, ""))
        store.move((record, State.FAILED, "its copy was damaged"))
        (store.path_of(record) / "bundle.json").write_bytes(b"damaged")
        assert store.stage(versions["1.0.0"]).state is State.STAGED
        open_bundle(store.path_of(record), versions.trust).close()


def test_a_lower_epoch_is_refused_before_anything_is_copied(
    tmp_path: Path, versions: Versions
) -> None:
    with Store.open(tmp_path / "store") as store:
        go_live(store, versions["2.0.0"])
        with pytest.raises(StoreError) as raised:
            store.stage(versions["1.0.0"])
        assert raised.value.reason == "epoch-too-low"
        assert len(list((store.folder / "bundles" / "tiny-tensor").iterdir())) == 1


def test_probing_that_was_interrupted_is_staged_at_the_next_open(
    tmp_path: Path, versions: Versions
) -> None:
    with Store.open(tmp_path / "store") as store:
        record = store.stage(versions["1.0.0"])
        store.move((record, State.PROBING, "being probed"))
    with Store.open(tmp_path / "store") as store:
        found = store.get(record.name, "1.0.0")
        assert (found.state, found.awaiting_start) == (State.STAGED, False)


def test_orphans_go_at_open_and_fresh_incoming_stays(tmp_path: Path, versions: Versions) -> None:
    with Store.open(tmp_path / "store") as store:
        kept = store.path_of(store.stage(versions["1.0.0"]))
        orphan = store.folder / "bundles" / ".incoming-1234"
        unnamed = kept.parent / "9.9.9-000000000000"
        fresh, stale = store.incoming / "fresh", store.incoming / "stale"
    for folder in (orphan, unnamed, fresh, stale):
        folder.mkdir()
    old = time.time() - 2 * 24 * 3600
    os.utime(stale, (old, old))
    Store.open(tmp_path / "store").close()
    assert [path.exists() for path in (kept, orphan, unnamed, fresh, stale)] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_a_damaged_journal_is_not_guessed_at(two_live: Path) -> None:
    path = two_live / "journal"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match="will not guess"):
        Store.open(two_live)
    with pytest.raises(JournalDamaged):  # and the lock was given back
        Store.open(two_live)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot create"):
        Store.open(tmp_path / "file" / "store")


def raised_epoch(folder: Path, versions: Versions) -> Path:
    """Make epoch 2 live, and return the file beside the store that says so."""
    with Store.open(folder) as store:
        go_live(store, versions["2.0.0"])
    return folder.with_name("store.epochs.json")


def test_a_deleted_store_does_not_forget_the_epoch(tmp_path: Path, versions: Versions) -> None:
    folder = tmp_path / "store"
    beside = raised_epoch(folder, versions)
    Store.open(folder).close()
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match=r"remove store\.epochs\.json") as refused:
        Store.open(folder)
    assert refused.value.reason == "epoch-too-low"
    beside.unlink()  # the operator's word for it
    with Store.open(folder) as store:
        assert store.stage(versions["1.0.0"]).security_epoch == 1


def test_an_older_store_is_refused(tmp_path: Path, versions: Versions) -> None:
    folder = tmp_path / "store"
    with Store.open(folder) as store:
        go_live(store, versions["1.0.0"])
    shutil.copytree(folder, tmp_path / "older")
    raised_epoch(folder, versions)
    shutil.rmtree(folder)
    shutil.move(tmp_path / "older", folder)
    with pytest.raises(StoreError, match="older one"):
        Store.open(folder)


def test_a_lost_file_beside_the_store_is_written_again(tmp_path: Path, versions: Versions) -> None:
    beside = raised_epoch(tmp_path / "store", versions)
    beside.unlink()
    Store.open(tmp_path / "store").close()
    assert json.loads(beside.read_bytes()) == {"tiny-tensor": 2}
    beside.write_text("[]")
    with pytest.raises(StoreError, match="epochs"):
        Store.open(tmp_path / "store")
