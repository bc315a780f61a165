"""Which version of each model answers, and how that changes without a dropped stream.

    install  = verify -> stage -> start a worker beside the live one -> probe -> switch
    promote  = the same for a version that is in the store already
    rollback = previous and live change places; both are running, so it is immediate

What it refuses: a bundle without probes, a version whose probes do not pass, and a
second operation on a model while one runs. Invariants:

- the journal changes before the pointer does: after a crash at any point the
  store says the old or the new version is live, never neither;
- the pointer changes between two events of the loop, so each request sees one
  version, and it finishes on the version it began on (runtime/models/loaded.py);
- an operation outlives the call that asked for it: a client that hangs up does
  not leave half an update;
- nothing here can take the live version away before the next has passed;
- no version answers that the policy in force does not admit (runtime/models/admission.py).

Used from the front's event loop only; disk and hashing work happens in threads.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from casemate.pb.casemate.v1 import model_pb2
from runtime.models.admission import PolicyInForce, no_policy, require_admission, standing_of
from runtime.models.errors import (
    CatalogBusy,
    ModelExpired,
    ModelNotReady,
    NotPossible,
    UnknownModel,
    UnknownVersion,
)
from runtime.models.host import HostFactory
from runtime.models.lifecycle import Lifecycle
from runtime.models.loaded import LoadedVersion, ServedVersion
from runtime.models.messages import Facts, model_message, version_message
from runtime.probes import probes_of
from runtime.store.errors import StoreError
from runtime.store.state import State, VersionRecord
from runtime.store.store import Store
from runtime.worker.variant import choose_variant, this_cpu
from security.bundle.opening import Trust, open_bundle
from security.errors import CasemateError
from security.identity.profile import utc_now

_LOG = logging.getLogger("casemate.models")
_INCOMING_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CatalogConfig:
    """Limits of the catalog.

    Attributes:
        drain_seconds: how long a replaced version may finish its requests.
        probe_timeout_seconds: how long all probes of a version may take.
        not_ready_retry_ms: what a caller is told when its model is still loading.
    """

    drain_seconds: float = 330.0
    probe_timeout_seconds: float = 120.0
    not_ready_retry_ms: int = 1000

    def __post_init__(self) -> None:
        for name in ("drain_seconds", "probe_timeout_seconds", "not_ready_retry_ms"):
            if getattr(self, name) <= 0:
                raise NotPossible(f"{name} must be above 0")


class ModelCatalog:
    """The models of one appliance."""

    def __init__(
        self,
        store: Store,
        trust: Trust,
        hosts: HostFactory,
        *,
        config: CatalogConfig | None = None,
        on_event: Callable[[str], None] | None = None,
        policy: PolicyInForce = no_policy,
    ) -> None:
        """Prepare; nothing is loaded before `start`.

        Args:
            store: an open store; the caller closes it after the catalog.
            trust: whose signatures count.
            hosts: starts a worker for a verified bundle.
            config: limits.
            on_event: told of changes nobody asked for ("fallback NAME ..."), for the audit log.
            policy: gives the policy in force, whose admission rules decide what may run.
        """
        self._config = config or CatalogConfig()
        self._store = store
        self._trust = trust
        self._policy = policy
        self._lifecycle = Lifecycle(
            store,
            trust,
            hosts,
            probe_timeout_seconds=self._config.probe_timeout_seconds,
            drain_seconds=self._config.drain_seconds,
            on_event=on_event or _ignore,
            policy=policy,
        )
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started = False
        self._settled = asyncio.Event()

    async def start(self) -> None:
        """Load what was live, then promote what was installed while nothing ran.

        Never raises for a model that cannot be loaded: the others are served, and
        `list` says why. Previous versions are loaded in the background.
        """
        names = sorted({record.name for record in self._store.versions()})
        await asyncio.gather(*(self._lifecycle.restore(name) for name in names))
        self._started = True
        self._spawn(self._settle(names))

    @property
    def ready(self) -> bool:
        """Whether every model that has a live version can answer."""
        if not self._started:
            return False
        live = [r for r in self._store.versions() if r.state is State.LIVE]
        return all(self._is_ready(record) for record in live)

    @contextmanager
    def lease(self, model: str, version: str = "") -> Iterator[ServedVersion]:
        """Use a version for one request, to its last byte.

        Args:
            model: the model's name.
            version: empty for the live one; otherwise the live or the previous one.

        Raises:
            UnknownModel: no such model.
            UnknownVersion: no such version is loaded.
            ModelNotReady: the model has a live version but it is not loaded yet.
            ModelExpired: it was not expired when it was loaded, but is now.
            ModelNotAdmitted: the policy admitted it when it was loaded, but does not now.
        """
        found = self._find(model, version)
        served = found.served
        expires = served.manifest.not_after
        if expires is not None and utc_now() > expires:
            raise ModelExpired(served.name, served.version)
        require_admission(self._policy(), served.name, served.version, served.privacy)
        with found.lease() as served:
            yield served

    def resolve(self, model: str, version: str = "") -> ServedVersion:
        """Look a version up without using it; raises as `lease` does."""
        return self._find(model, version).served

    def list(self) -> model_pb2.ListModelsResponse:
        """Return every model with all its versions."""
        names = sorted({record.name for record in self._store.versions()})
        return model_pb2.ListModelsResponse(models=[self._model(name) for name in names])

    def describe(self, model: str, version: str = "") -> model_pb2.DescribeModelResponse:
        """Return a model and the signed manifest of a loaded version; raises as `lease`."""
        served = self.resolve(model, version)
        return model_pb2.DescribeModelResponse(
            model=self._model(model),
            bundle_json=served.manifest_json,
            context_tokens=served.manifest.limits.context_tokens,
            max_sequences=served.manifest.limits.max_sequences,
        )

    async def install(
        self, incoming: str, stage_only: bool = False
    ) -> model_pb2.InstallBundleResponse:
        """Install a bundle that lies in the store's incoming folder.

        Raises:
            NotPossible: `incoming` is no name of a folder there.
            BundleError: the bundle does not verify, or has no probes.
            ModelNotAdmitted: the policy does not admit it; it is not even staged.
            NoVariant: no variant suits this processor; it is not even staged.
            StoreError, ProbesFailed, CatalogBusy: the live version stays as it was.
        """
        return await self._outliving(self._install(incoming, stage_only))

    async def promote(self, model: str, version: str) -> model_pb2.PromoteVersionResponse:
        """Make a staged, retired or previous version live, after its probes pass.

        Raises:
            UnknownModel, UnknownVersion, NotPossible, CatalogBusy, ProbesFailed,
            BundleError, ModelNotAdmitted, StoreError: the live version stays as it was.
        """
        return await self._outliving(self._promote(model, version))

    async def rollback(self, model: str) -> model_pb2.RollbackModelResponse:
        """Make the previous version live again, at once; the live one becomes previous.

        Raises:
            UnknownModel, NotPossible (there is none), CatalogBusy, ModelNotAdmitted,
            StoreError.
        """
        return await self._outliving(self._rollback(model))

    async def close(self) -> None:
        """Drain and end every worker. The store stays open."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._started = False
        await self._lifecycle.close()

    async def _settle(self, names: Sequence[str]) -> None:
        """Load the previous versions, so that a rollback is immediate."""
        try:
            for name in names:
                await self._lifecycle.restore_previous(name)
        finally:
            self._settled.set()

    async def _install(self, incoming: str, stage_only: bool) -> model_pb2.InstallBundleResponse:
        if not _INCOMING_NAME.fullmatch(incoming):
            raise NotPossible(
                "incoming must be the name of a folder in the store's incoming folder"
            )
        path = self._store.incoming / incoming
        bundle = await asyncio.to_thread(open_bundle, path, self._trust)
        name, passed, handed_over = bundle.manifest.name, 0, False
        try:
            probes_of(bundle)  # a bundle that could never go live is not even staged
            standing = await asyncio.to_thread(standing_of, bundle)
            require_admission(self._policy(), name, bundle.manifest.version, standing)
            choose_variant(bundle.manifest, this_cpu())
            async with self._exclusive(name):
                record = await asyncio.to_thread(self._store.stage, bundle)
                if not stage_only and not self._is_live(record):
                    handed_over = True
                    record, passed = await self._lifecycle.bring_up(record, bundle)
        finally:
            if not handed_over:
                bundle.close()
        return model_pb2.InstallBundleResponse(
            model=name,
            version=self._message(record),
            probes_passed=passed,
        )

    async def _promote(self, model: str, version: str) -> model_pb2.PromoteVersionResponse:
        async with self._exclusive(model):
            record = self._record(model, version)
            passed = 0
            if not self._is_live(record):
                if record.state in {State.FAILED, State.REVOKED, State.PROBING}:
                    raise NotPossible(
                        f"{model} {version} is {record.state.value} ({record.reason}); "
                        "install it again, or install a newer one"
                    )
                record, passed = await self._lifecycle.bring_up(record)
        return model_pb2.PromoteVersionResponse(version=self._message(record), probes_passed=passed)

    async def _rollback(self, model: str) -> model_pb2.RollbackModelResponse:
        async with self._exclusive(model):
            previous = self._store.state.in_state(model, State.PREVIOUS)
            if previous is None:
                self._known(model)
                raise NotPossible(f"{model} has no previous version to go back to")
            record, _ = await self._lifecycle.bring_up(previous, probe=False)
        return model_pb2.RollbackModelResponse(version=self._message(record))

    def _find(self, model: str, version: str) -> LoadedVersion:
        loaded = self._lifecycle.find(model, version)
        if loaded is not None:
            return loaded
        self._known(model)
        expected = [
            r for r in self._store.versions(model) if r.state in {State.LIVE, State.PREVIOUS}
        ]
        if version and version not in {record.version for record in expected}:
            raise UnknownVersion(model, version)
        if not expected and self._started:
            raise UnknownModel(model)
        raise ModelNotReady(model, self._config.not_ready_retry_ms)

    def _known(self, model: str) -> None:
        if not self._store.versions(model):
            raise UnknownModel(model)

    def _record(self, model: str, version: str) -> VersionRecord:
        self._known(model)
        try:
            return self._store.get(model, version)
        except StoreError as error:
            raise UnknownVersion(model, version) from error

    def _is_live(self, record: VersionRecord) -> bool:
        return record.state is State.LIVE and self._lifecycle.find(*record.key) is not None

    def _is_ready(self, record: VersionRecord) -> bool:
        return self._facts(record).ready

    def _facts(self, record: VersionRecord) -> Facts:
        """What is known of a version: all of it only while it is loaded."""
        loaded = self._lifecycle.find(*record.key)
        if loaded is None:
            return Facts()
        policy, privacy = self._policy(), loaded.served.privacy
        admitted = policy is None or not policy.refusal(record.name, privacy)
        ready = loaded.served.host.ready and admitted
        return Facts(ready, privacy, loaded.served.variant.id)

    def _message(self, record: VersionRecord) -> model_pb2.ModelVersion:
        return version_message(record, self._facts(record))

    def _model(self, name: str) -> model_pb2.Model:
        return model_message(name, self._store.versions(name), self._facts)

    @asynccontextmanager
    async def _exclusive(self, model: str) -> AsyncIterator[None]:
        """Run one operation per model; the second is told so at once."""
        await self._settled.wait()
        lock = self._locks.setdefault(model, asyncio.Lock())
        if lock.locked():
            raise CatalogBusy(model)
        async with lock:
            yield

    async def _outliving(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run an operation to its end even when the call that asked for it is cancelled."""
        return await asyncio.shield(self._spawn(operation))

    def _spawn(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(operation)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            known = isinstance(error, CasemateError)
            _LOG.warning("model operation failed: %s", error if known else type(error).__name__)


def _ignore(_event: str) -> None:
    """Do nothing with an event."""
