"""Which bundles the catalog lets in, and which it stops serving, by their privacy claim."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from casemate.pb.casemate.v1 import model_pb2
from runtime.models.catalog import ModelCatalog
from runtime.models.errors import ModelNotAdmitted, ModelNotReady
from runtime.policy import Policy, parse_policy
from runtime.store import State, Store
from security.bundle.opening import open_bundle
from security.bundle.signing import sign_bundle, sign_files
from security.signing.signers import SigningKeys, Trust
from tests.models.memory_host import MemoryHosts
from tests.support.bundles import signed_bundle, signing_keys
from tests.support.forged_bundles import write
from tests.support.privacy_reports import attest, claim_report
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
NO_RULE = parse_policy(b"version = 1\n")


def asking(epsilon: float = 8.0, *, unit: str = "user", models: str = "*") -> Policy:
    """A policy with one admission rule."""
    rule = f'models = ["{models}"]\nunit = "{unit}"\nmax_epsilon = {epsilon}\nmax_delta = 1e-5\n'
    return parse_policy(f"version = 1\n[[admission]]\n{rule}audited = true\n".encode())


@dataclass
class Site:
    """A store, a signer, and the policy in force."""

    folder: Path
    keys: SigningKeys = field(default_factory=signing_keys)
    policy: Policy = NO_RULE
    hosts: MemoryHosts = field(default_factory=MemoryHosts)
    events: list[str] = field(default_factory=list)

    @property
    def trust(self) -> Trust:
        return Trust.of(self.keys.public())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ModelCatalog]:
        with Store.open(self.folder / "store") as store:
            catalog = ModelCatalog(
                store,
                self.trust,
                self.hosts,
                on_event=self.events.append,
                policy=lambda: self.policy,
            )
            await catalog.start()
            try:
                yield catalog
            finally:
                await catalog.close()

    def bundle(self, version: str, report: Any = None) -> Path:
        """A signed bundle of that version, with a claim if one is given."""
        folder = self.folder / "made"
        folder.mkdir(parents=True, exist_ok=True)
        model = tiny_onnx(folder / "model.onnx")
        path = signed_bundle(
            folder, model, "tensor", probes=PROBES, keys=self.keys, version=version
        ).path
        if report is not None:
            attest(path, report)
            sign_bundle(path, self.keys)
        return path

    def incoming(self, bundle: Path) -> str:
        target = self.folder / "store/incoming" / bundle.name
        shutil.copytree(bundle, target, dirs_exist_ok=True)
        return target.name

    async def install(self, catalog: ModelCatalog, version: str, report: Any = None) -> None:
        await catalog.install(self.incoming(self.bundle(version, report)))

    def states(self) -> dict[str, State]:
        with Store.open(self.folder / "store") as store:
            return {record.version: record.state for record in store.versions()}


def sign_unseen(path: Path, keys: SigningKeys) -> None:
    """Sign what lies there, without the checks of `sign_bundle`."""
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    digests = {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in names
        if not name.startswith("model.sig")
    }
    for name, data in sign_files("tiny", digests, keys).items():
        write(path, name, data)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_without_a_rule_nothing_is_asked_for(site: Site) -> None:
    async with site.running() as catalog:
        await site.install(catalog, "1.0.0")
        assert catalog.resolve(NAME).version == "1.0.0"
        assert not catalog.list().models[0].versions[0].HasField("privacy")


async def test_under_a_rule_a_sufficient_claim_goes_live_and_is_shown(site: Site) -> None:
    site.policy = asking()
    async with site.running() as catalog:
        await site.install(catalog, "1.0.0", claim_report())
        with catalog.lease(NAME) as served:
            assert served.version == "1.0.0"
        shown = catalog.describe(NAME).model.versions[0]
    assert shown.ready
    assert (shown.privacy.epsilon, shown.privacy.delta, shown.privacy.unit) == (3.0, 1e-5, "user")
    assert (shown.privacy.contributions, shown.privacy.audited) == (4, True)
    assert (shown.privacy.audited_epsilon, shown.privacy.audit_ceiling) == (0.2, 3.6)
    assert shown.privacy.user_field == "author"


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "it carries no privacy claim"),
        (claim_report(epsilon=8.5), "its epsilon is 8.5, above 8"),
        (claim_report(delta=1e-4), "its delta is 0.0001, above 1e-05"),
        (claim_report(unit="record", contributions=1), "protects a record"),
        (claim_report(lambda r: r["evidence"].update(audit=None)), "not audited"),
    ],
    ids=["none", "epsilon", "delta", "unit", "audit"],
)
async def test_under_a_rule_anything_less_is_not_even_staged(
    site: Site, report: Any, reason: str
) -> None:
    site.policy = asking()
    async with site.running() as catalog:
        with pytest.raises(ModelNotAdmitted, match=reason):
            await site.install(catalog, "1.0.0", report)
        assert site.hosts.started == []
    assert site.states() == {}


async def test_a_statement_for_another_model_is_refused(site: Site) -> None:
    """A trusted signer who signs unseen: the statement is about another model."""
    site.policy = asking()
    path = site.bundle("1.0.0", claim_report())
    statement = (path / "attestations/privacy.json").read_bytes()
    digest = json.loads(statement)["subject"][0]["digest"]["sha256"].encode()
    write(path, "attestations/privacy.json", statement.replace(digest, b"0" * 64))
    sign_unseen(path, site.keys)
    async with site.running() as catalog:
        with pytest.raises(ModelNotAdmitted, match=r"cannot be relied on.*about another model"):
            await catalog.install(site.incoming(path))
    assert site.states() == {}


async def test_two_claims_that_contradict_are_none(site: Site) -> None:
    site.policy = asking()
    path = site.bundle("1.0.0", claim_report())
    attest(path, claim_report(epsilon=100.0), "attestations/privacy-2.json")
    sign_unseen(path, site.keys)
    async with site.running() as catalog:
        with pytest.raises(ModelNotAdmitted, match="cannot be relied on"):
            await catalog.install(site.incoming(path))
        # Where no rule asks, it is served, and shows no claim.
        site.policy = NO_RULE
        await catalog.install(site.incoming(path))
        assert not catalog.list().models[0].versions[0].HasField("privacy")


async def test_a_stricter_policy_stops_what_is_loaded_at_once(site: Site) -> None:
    async with site.running() as catalog:
        await site.install(catalog, "1.0.0", claim_report(epsilon=5.0))
        site.policy = asking(2.0)
        with pytest.raises(ModelNotAdmitted, match="epsilon is 5, above 2"), catalog.lease(NAME):
            pass
        assert not catalog.ready
        assert not catalog.list().models[0].versions[0].ready
        site.policy = asking(8.0)
        with catalog.lease(NAME) as served:
            assert served.version == "1.0.0"


async def test_at_start_a_version_that_is_not_admitted_is_not_loaded(site: Site) -> None:
    async with site.running() as catalog:
        await site.install(catalog, "1.0.0", claim_report(epsilon=1.0))
        await site.install(catalog, "1.1.0", claim_report(epsilon=5.0))
    started = len(site.hosts.started)
    site.policy = asking(2.0)
    async with site.running() as catalog:
        with pytest.raises(ModelNotReady):
            catalog.resolve(NAME)
        # No older version steps in by itself; an operator may go back to it.
        await catalog.rollback(NAME)
        assert [h.bundle.manifest.version for h in site.hosts.started[started:]] == ["1.0.0"]
        assert catalog.resolve(NAME).version == "1.0.0"
        with pytest.raises(ModelNotAdmitted):
            await catalog.rollback(NAME)
        assert catalog.resolve(NAME).version == "1.0.0"
    assert any("epsilon is 5, above 2" in event for event in site.events)
    assert site.states() == {"1.0.0": State.LIVE, "1.1.0": State.PREVIOUS}


async def test_it_comes_back_when_the_policy_does(site: Site) -> None:
    async with site.running() as catalog:
        await site.install(catalog, "1.0.0", claim_report(epsilon=5.0))
    site.policy = asking(2.0)
    async with site.running() as catalog:
        assert not catalog.ready
        site.policy = asking(8.0)
        done = await catalog.promote(NAME, "1.0.0")
        assert (done.version.state, done.version.ready) == (model_pb2.VERSION_STATE_LIVE, True)
    assert site.states() == {"1.0.0": State.LIVE}


async def test_what_was_staged_is_judged_again_when_it_is_promoted(site: Site) -> None:
    async with site.running() as catalog:
        path = site.bundle("1.0.0", claim_report(epsilon=5.0))
        await catalog.install(site.incoming(path), stage_only=True)
        site.policy = asking(2.0)
        with pytest.raises(ModelNotAdmitted):
            await catalog.promote(NAME, "1.0.0")
    assert site.states() == {"1.0.0": State.FAILED}


async def test_what_was_installed_while_nothing_ran_is_judged_at_start(site: Site) -> None:
    path = site.bundle("1.0.0")
    with (
        Store.open(site.folder / "store") as store,
        open_bundle(path, site.trust) as bundle,
    ):
        store.stage(bundle, awaiting_start=True)
    site.policy = asking()
    async with site.running() as catalog:
        assert catalog.list().models[0].versions[0].state == model_pb2.VERSION_STATE_FAILED
    assert any("carries no privacy claim" in event for event in site.events)
    assert site.hosts.started == []


async def test_a_rule_for_other_models_asks_nothing_of_this_one(site: Site) -> None:
    site.policy = asking(models="tiny-embed")
    async with site.running() as catalog:
        await site.install(catalog, "1.0.0")
        with catalog.lease(NAME) as served:
            assert served.privacy.claim is None
