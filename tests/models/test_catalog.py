from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Self

import pytest

from casemate.pb.casemate.v1 import model_pb2
from runtime.models.catalog import CatalogConfig, ModelCatalog
from runtime.models.errors import (
    CatalogBusy,
    ModelExpired,
    ModelNotReady,
    NotPossible,
    ProbesFailed,
    UnknownModel,
    UnknownVersion,
)
from runtime.store import State, Store, StoreError
from security.bundle.opening import Trust
from security.errors import BundleError
from tests.models.memory_host import MemoryHosts, until
from tests.support.bundles import signed_bundle, signing_keys
from tests.support.tiny_models import tiny_onnx

NAME = "tiny-tensor"
PROBE = {
    "id": "p1",
    "kind": "tensor",
    "request": {"inputs": []},
    "expect": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]},
    "tolerance": {"absolute": 0.1, "relative": 0.0},
}
PROBES = json.dumps(PROBE).encode() + b"\n"
END_OF_LIFE = datetime(2099, 1, 1, tzinfo=UTC)
EPOCHS = {"1.0.0": 1, "1.1.0": 1, "1.2.0": 1, "2.0.0": 2}


@dataclass(frozen=True)
class Source:
    folder: Path
    trust: Trust
    paths: dict[str, Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder, keys = tmp_path_factory.mktemp("bundles"), signing_keys()
    model = tiny_onnx(folder / "model.onnx")
    made = {
        version: signed_bundle(
            folder, model, "tensor", probes=PROBES, keys=keys, version=version, security_epoch=epoch
        )
        for version, epoch in EPOCHS.items()
    }
    bare = signed_bundle(folder, model, "tensor", keys=keys, version="3.0.0", security_epoch=2)
    ending = signed_bundle(
        folder, model, "tensor", probes=PROBES, keys=keys, version="1.3.0", not_after=END_OF_LIFE
    )
    paths = {version: bundle.path for version, bundle in made.items()}
    paths |= {"3.0.0": bare.path, "1.3.0": ending.path}
    return Source(folder, bare.trust, paths)


@dataclass
class Site:
    """A store folder that a catalog can be started on, again and again."""

    folder: Path
    source: Source
    hosts: MemoryHosts = field(default_factory=MemoryHosts)
    events: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ModelCatalog]:
        with Store.open(self.folder) as store:
            catalog = ModelCatalog(
                store,
                self.source.trust,
                self.hosts,
                config=CatalogConfig(drain_seconds=5.0),
                on_event=self.events.append,
            )
            await catalog.start()
            try:
                yield catalog
            finally:
                await catalog.close()

    def incoming(self, version: str) -> str:
        target = self.folder / "incoming" / f"in-{version}"
        shutil.copytree(self.source.paths[version], target, dirs_exist_ok=True)
        return target.name

    def states(self) -> dict[str, State]:
        with Store.open(self.folder) as store:
            return {record.version: record.state for record in store.versions()}


@pytest.fixture
def site(tmp_path: Path, source: Source) -> Site:
    return Site(tmp_path / "store", source)


async def test_install_goes_live_and_the_old_one_stays_ready(site: Site) -> None:
    async with site.running() as catalog:
        first = await catalog.install(site.incoming("1.0.0"))
        assert (first.version.state, first.probes_passed) == (model_pb2.VERSION_STATE_LIVE, 1)
        await catalog.install(site.incoming("1.1.0"))
        assert catalog.resolve(NAME).version == "1.1.0"
        assert catalog.resolve(NAME, "1.0.0").host.ready
        assert catalog.ready
    assert site.states() == {"1.0.0": State.PREVIOUS, "1.1.0": State.LIVE}


async def test_a_third_version_retires_the_first_after_its_last_request(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        with catalog.lease(NAME) as served:
            await catalog.install(site.incoming("1.1.0"))
            await catalog.install(site.incoming("1.2.0"))
            await asyncio.sleep(0)
            # The request finishes where it began, on a version that is already retired.
            assert served.version == "1.0.0"
            assert not site.hosts.of("1.0.0").closed
            with pytest.raises(UnknownVersion):
                catalog.resolve(NAME, "1.0.0")
        await until(lambda: site.hosts.of("1.0.0").closed)
        assert not site.hosts.of("1.1.0").closed


async def test_failed_probes_leave_the_live_version_alone(site: Site) -> None:
    site.hosts.wrong.add("1.1.0")
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        with pytest.raises(ProbesFailed, match=r"probe p1 \(tensor\): output y is off"):
            await catalog.install(site.incoming("1.1.0"))
        assert catalog.resolve(NAME).version == "1.0.0"
        assert site.hosts.of("1.1.0").closed
        with pytest.raises(NotPossible, match="failed"):
            await catalog.promote(NAME, "1.1.0")
    assert site.states() == {"1.0.0": State.LIVE, "1.1.0": State.FAILED}


async def test_a_worker_that_does_not_start_fails_the_version(site: Site) -> None:
    site.hosts.broken.add("1.1.0")
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        with pytest.raises(Exception, match="could not be loaded"):
            await catalog.install(site.incoming("1.1.0"))
        assert catalog.resolve(NAME).version == "1.0.0"
    # It may be installed again, and then it is tried again.
    site.hosts.broken.clear()
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.1.0"))
        assert catalog.resolve(NAME).version == "1.1.0"


async def test_rollback_is_immediate_and_goes_both_ways(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("1.1.0"))
        started = len(site.hosts.started)
        answer = await catalog.rollback(NAME)
        assert (answer.version.version, answer.version.reason) == ("1.0.0", "rolled back")
        assert catalog.resolve(NAME).version == "1.0.0"
        await catalog.rollback(NAME)
        assert catalog.resolve(NAME).version == "1.1.0"
        assert len(site.hosts.started) == started


async def test_rollback_needs_a_previous_version(site: Site) -> None:
    async with site.running() as catalog:
        with pytest.raises(UnknownModel):
            await catalog.rollback(NAME)
        await catalog.install(site.incoming("1.0.0"))
        with pytest.raises(NotPossible, match="no previous version"):
            await catalog.rollback(NAME)


async def test_a_higher_epoch_gives_up_what_is_below_it(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("2.0.0"))
        with pytest.raises(NotPossible, match="no previous version"):
            await catalog.rollback(NAME)
        with pytest.raises(StoreError, match="security epoch 1, below 2"):
            await catalog.install(site.incoming("1.1.0"))
        with pytest.raises(StoreError, match="may not go live again"):
            await catalog.promote(NAME, "1.0.0")
        assert catalog.resolve(NAME).version == "2.0.0"


async def test_staged_only_waits_for_promote(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        staged = await catalog.install(site.incoming("1.1.0"), stage_only=True)
        assert staged.version.state == model_pb2.VERSION_STATE_STAGED
        assert catalog.resolve(NAME).version == "1.0.0"
        promoted = await catalog.promote(NAME, "1.1.0")
        assert promoted.probes_passed == 1
        assert catalog.resolve(NAME).version == "1.1.0"


async def test_a_retired_version_can_be_promoted_again(site: Site) -> None:
    async with site.running() as catalog:
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            await catalog.install(site.incoming(version))
        await catalog.promote(NAME, "1.0.0")
        assert catalog.resolve(NAME).version == "1.0.0"
    assert site.states() == {
        "1.0.0": State.LIVE,
        "1.1.0": State.RETIRED,
        "1.2.0": State.PREVIOUS,
    }


async def test_a_second_operation_is_told_at_once(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        site.hosts.held["1.1.0"] = asyncio.Event()
        first = asyncio.create_task(catalog.install(site.incoming("1.1.0")))
        await until(lambda: catalog.list().models[0].versions[0].version == "1.1.0")
        with pytest.raises(CatalogBusy):
            await catalog.rollback(NAME)
        with pytest.raises(UnknownVersion):  # what is being probed answers nobody
            catalog.resolve(NAME, "1.1.0")
        site.hosts.held["1.1.0"].set()
        await first


async def test_a_caller_that_hangs_up_does_not_stop_the_update(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        site.hosts.held["1.1.0"] = asyncio.Event()
        call = asyncio.create_task(catalog.install(site.incoming("1.1.0")))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        site.hosts.held["1.1.0"].set()
        await until(lambda: catalog.resolve(NAME).version == "1.1.0")


async def test_live_and_previous_come_back_at_start(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("1.1.0"))
    async with site.running() as catalog:
        assert catalog.ready
        assert catalog.resolve(NAME).version == "1.1.0"
        assert (await catalog.rollback(NAME)).version.version == "1.0.0"


async def test_a_damaged_live_version_falls_back_loudly(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("1.1.0"))
    model = next((site.folder / "bundles" / NAME).glob("1.1.0-*/variants/default/*"))
    model.write_bytes(b"tampered")
    async with site.running() as catalog:
        assert catalog.resolve(NAME).version == "1.0.0"
        assert catalog.ready
    assert site.states() == {"1.0.0": State.LIVE, "1.1.0": State.FAILED}
    assert any("fallback" in event for event in site.events)
    assert any(record.levelname == "ERROR" for record in caplog.records)


class _Later(datetime):
    """A clock that has passed the end of life."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2099, 1, 2, tzinfo=tz)


async def test_a_version_that_expires_while_it_is_live_answers_no_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.3.0"))
        with catalog.lease(NAME) as served:
            assert served.version == "1.3.0"
        monkeypatch.setattr("runtime.models.catalog.utc_now", lambda: _Later.now(UTC))
        with pytest.raises(ModelExpired, match=r"1\.3\.0 has expired"), catalog.lease(NAME):
            pytest.fail("an expired version was leased")


async def test_an_older_version_does_not_step_in_for_an_expired_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("1.3.0"))
    monkeypatch.setattr("security.bundle.opening.datetime", _Later)
    async with site.running() as catalog:
        assert not catalog.ready
        with pytest.raises(ModelNotReady):
            catalog.resolve(NAME)
    assert site.states() == {"1.0.0": State.PREVIOUS, "1.3.0": State.LIVE}
    assert any("1.3.0 cannot be used" in event for event in site.events)


async def test_a_live_version_that_does_not_start_falls_back(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("1.1.0"))
    site.hosts.broken.add("1.1.0")
    async with site.running() as catalog:
        assert catalog.resolve(NAME).version == "1.0.0"


async def test_without_a_previous_version_it_is_not_ready_and_says_so(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
    site.hosts.broken.add("1.0.0")
    async with site.running() as catalog:
        assert not catalog.ready
        with pytest.raises(ModelNotReady) as raised:
            catalog.resolve(NAME)
        assert raised.value.retry_after_ms > 0
    assert site.states() == {"1.0.0": State.LIVE}
    site.hosts.broken.clear()
    async with site.running() as catalog:
        assert catalog.ready


async def test_what_was_installed_while_nothing_ran_goes_live_at_start(
    site: Site, source: Source
) -> None:
    from security.bundle.opening import open_bundle

    for version, at_start in (("1.0.0", True), ("1.1.0", False)):
        with (
            Store.open(site.folder) as store,
            open_bundle(source.paths[version], source.trust) as bundle,
        ):
            store.stage(bundle, awaiting_start=at_start)
    async with site.running() as catalog:
        assert catalog.ready
        assert catalog.resolve(NAME).version == "1.0.0"
    assert site.states() == {"1.0.0": State.LIVE, "1.1.0": State.STAGED}


async def test_a_bundle_without_probes_is_not_even_staged(site: Site) -> None:
    async with site.running() as catalog:
        with pytest.raises(BundleError) as raised:
            await catalog.install(site.incoming("3.0.0"))
        assert raised.value.reason == "no-probes"
    assert site.states() == {}


async def test_a_tampered_bundle_is_refused(site: Site) -> None:
    async with site.running() as catalog:
        name = site.incoming("1.0.0")
        (site.folder / "incoming" / name / "bundle.json").write_bytes(b"{}")
        with pytest.raises(BundleError):
            await catalog.install(name)
    assert site.states() == {}


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../store", "", "x" * 200, "a\0b"])
async def test_incoming_is_a_name_and_no_path(site: Site, name: str) -> None:
    async with site.running() as catalog:
        with pytest.raises(NotPossible):
            await catalog.install(name)


async def test_unknown_names(site: Site) -> None:
    async with site.running() as catalog:
        with pytest.raises(UnknownModel):
            catalog.resolve("nobody")
        await catalog.install(site.incoming("1.0.0"))
        with pytest.raises(UnknownVersion):
            catalog.resolve(NAME, "7.7.7")
        with pytest.raises(UnknownVersion):
            await catalog.promote(NAME, "7.7.7")
        assert json.loads(catalog.describe(NAME).bundle_json)["version"] == "1.0.0"


async def test_swaps_under_load_give_no_failed_and_no_mixed_answer(site: Site) -> None:
    async with site.running() as catalog:
        await catalog.install(site.incoming("1.0.0"))
        await catalog.install(site.incoming("1.1.0"))
        stop, answers = asyncio.Event(), 0

        async def ask() -> None:
            nonlocal answers
            while not stop.is_set():
                with catalog.lease(NAME) as served:
                    host = served.host
                    await asyncio.sleep(0)
                    assert host.ready
                    assert site.hosts.of(served.version) is host
                    answers += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(ask())
            for _ in range(50):
                await catalog.rollback(NAME)
            stop.set()
        assert answers > 50
