"""A real process, really killed, at moments nobody chose: no acknowledged change is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.store import State, Store
from security.bundle.opening import open_bundle
from tests.support.bundles import SignedBundle, signed_bundle, signing_keys
from tests.support.tiny_models import tiny_onnx

# Lets two versions change places for ever; says so after each change.
CHILD = """
import sys
from pathlib import Path
from runtime.store import State, Store

store = Store.open(Path(sys.argv[1]))
number = 0
while True:
    live = store.state.in_state("tiny-tensor", State.LIVE)
    previous = store.state.in_state("tiny-tensor", State.PREVIOUS)
    store.move((previous, State.LIVE, str(number)), (live, State.PREVIOUS, str(number)))
    print(number, previous.version, flush=True)
    number += 1
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[SignedBundle]:
    folder, keys = tmp_path_factory.mktemp("bundles"), signing_keys()
    source = tiny_onnx(folder / "model.onnx")
    return [
        signed_bundle(folder, source, "tensor", keys=keys, version=version)
        for version in ("1.0.0", "1.1.0")
    ]


@pytest.mark.parametrize("acknowledged", [1, 2, 5, 13, 40])
def test_sigkill_loses_no_acknowledged_change(
    tmp_path: Path, bundles: list[SignedBundle], acknowledged: int
) -> None:
    folder = tmp_path / "store"
    with Store.open(folder) as store:
        for bundle in bundles:
            with bundle.open() as opened:
                record = store.stage(opened)
            store.move((record, State.PROBING, ""))
            live = store.state.in_state(record.name, State.LIVE)
            moves = [(record, State.LIVE, "first")]
            if live is not None:
                moves.append((live, State.PREVIOUS, "first"))
            store.move(*moves)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        for _ in range(acknowledged):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        # Lines already in the pipe were acknowledged too.
        last = acknowledged - 1 + len([line for line in child.stdout if line.endswith("\n")])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with Store.open(folder) as after:
        live = after.state.in_state("tiny-tensor", State.LIVE)
        previous = after.state.in_state("tiny-tensor", State.PREVIOUS)
        assert live is not None
        assert previous is not None
        assert {live.version, previous.version} == {"1.0.0", "1.1.0"}
        assert live.reason == previous.reason
        assert int(live.reason) in {last, last + 1}
        for record in after.versions():
            open_bundle(after.path_of(record), bundles[0].trust).close()
