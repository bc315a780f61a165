"""Three versions of a tiny model, verified once for all store tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.store import State, Store
from security.bundle.opening import Trust, VerifiedBundle
from tests.support.bundles import signed_bundle, signing_keys
from tests.support.tiny_models import tiny_onnx

PROBES = (
    json.dumps(
        {"expect": {}, "id": "p1", "kind": "tensor", "request": {}, "tolerance": {}}
    ).encode()
    + b"\n"
)


@dataclass(frozen=True)
class Versions:
    """Verified bundles by version, and whom they are signed by."""

    trust: Trust
    bundles: dict[str, VerifiedBundle]

    def __getitem__(self, version: str) -> VerifiedBundle:
        return self.bundles[version]


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    folder = tmp_path_factory.mktemp("bundles")
    keys = signing_keys()
    source = tiny_onnx(folder / "model.onnx")
    epochs = {"1.0.0": 1, "1.1.0": 1, "1.2.0": 1, "2.0.0": 2}
    signed = {
        version: signed_bundle(
            folder,
            source,
            "tensor",
            probes=PROBES,
            keys=keys,
            version=version,
            security_epoch=epoch,
        )
        for version, epoch in epochs.items()
    }
    opened = {version: bundle.open() for version, bundle in signed.items()}
    yield Versions(next(iter(signed.values())).trust, opened)
    for bundle in opened.values():
        bundle.close()


def go_live(store: Store, bundle: VerifiedBundle) -> None:
    """Stage a bundle and switch to it, as the catalog does."""
    record = store.stage(bundle)
    store.move((record, State.PROBING, "being probed"))
    live = store.state.in_state(record.name, State.LIVE)
    previous = store.state.in_state(record.name, State.PREVIOUS)
    moves = [(record, State.LIVE, "passed")]
    if previous is not None:
        moves.append((previous, State.RETIRED, "replaced"))
    if live is not None:
        moves.append((live, State.PREVIOUS, "replaced"))
    store.move(*moves)


@pytest.fixture
def two_live(tmp_path: Path, versions: Versions) -> Path:
    """A store in which 1.1.0 is live and 1.0.0 is previous."""
    folder = tmp_path / "base"
    with Store.open(folder) as store:
        go_live(store, versions["1.0.0"])
        go_live(store, versions["1.1.0"])
    return folder
