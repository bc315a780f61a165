"""The steps behind the catalog's operations: load, probe, switch, fall back, retire.

Invariants: the journal is written before the pointer moves; whatever fails closes
the worker and the bundle it had opened; a replaced version is retired only after
its last request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from runtime.models.admission import PolicyInForce, require_admission, standing_of
from runtime.models.errors import ModelNotAdmitted, ProbesFailed
from runtime.models.host import HostFactory
from runtime.models.loaded import LoadedVersion
from runtime.policy.admission import PrivacyStanding
from runtime.probes import run_probes
from runtime.store.errors import StoreError
from runtime.store.state import Key, State, VersionRecord
from runtime.store.store import Store
from runtime.worker.variant import choose_variant, this_cpu
from security.bundle.opening import Trust, VerifiedBundle, open_bundle
from security.errors import BundleError, CasemateError

_LOG = logging.getLogger("casemate.models")
_ANSWERING = frozenset({State.LIVE, State.PREVIOUS})


class Lifecycle:
    """Holds the loaded versions and the live pointer of each model."""

    def __init__(
        self,
        store: Store,
        trust: Trust,
        hosts: HostFactory,
        *,
        probe_timeout_seconds: float,
        drain_seconds: float,
        on_event: Callable[[str], None],
        policy: PolicyInForce,
    ) -> None:
        self._store = store
        self._trust = trust
        self._hosts = hosts
        self._probe_timeout_seconds = probe_timeout_seconds
        self._drain_seconds = drain_seconds
        self._on_event = on_event
        self._policy = policy
        self._loaded: dict[Key, LoadedVersion] = {}
        self._live: dict[str, LoadedVersion] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def find(self, name: str, version: str = "") -> LoadedVersion | None:
        """Return the live version, or a loaded one by its version."""
        if not version:
            return self._live.get(name)
        record = self._store.state.versions.get((name, version))
        if record is None or record.state not in _ANSWERING:
            return None  # one that is being probed answers its probes only
        return self._loaded.get(record.key)

    async def restore(self, name: str) -> None:
        """Bring one model back at start; log and journal what could not be."""
        live = self._store.state.in_state(name, State.LIVE)
        if live is not None:
            try:
                self._live[name] = await self._load(live)
            except CasemateError as error:
                await self._fall_back(live, error)
        for record in self._store.versions(name):
            if record.state is State.STAGED and record.awaiting_start:
                try:
                    await self.bring_up(record)
                except CasemateError as error:
                    self._report(f"install of {name} {record.version} failed: {error}")

    async def restore_previous(self, name: str) -> None:
        """Load the version that a rollback would go to."""
        previous = self._store.state.in_state(name, State.PREVIOUS)
        if previous is not None and previous.key not in self._loaded:
            try:
                await self._load(previous)
            except CasemateError as error:
                self._report(f"previous version {name} {previous.version} is not loaded: {error}")

    async def bring_up(
        self, record: VersionRecord, bundle: VerifiedBundle | None = None, *, probe: bool = True
    ) -> tuple[VersionRecord, int]:
        """Load a version beside the live one, probe it, and switch to it.

        Args:
            record: staged, retired or previous; or live but not loaded.
            bundle: its verified content when it is open already; taken over.
            probe: False only for a rollback, whose target passed before.

        Returns:
            The version's record, now live, and how many probes passed.
        """
        try:
            if record.state not in _ANSWERING:
                await self._move((record, State.PROBING, "being probed"))
        except BaseException:
            if bundle is not None:
                bundle.close()
            raise
        loaded = self._loaded.get(record.key)
        fresh = loaded is None
        try:
            if loaded is None:
                loaded = await self._load(record, bundle)
            else:
                if bundle is not None:
                    bundle.close()
                self._admit(record, loaded.served.privacy)
            passed = await self._probe(loaded) if probe or fresh else 0
        except (Exception, asyncio.CancelledError) as error:
            await self._give_up(record, error, unload=fresh)
            raise
        reason = "passed its probes" if probe else "rolled back"
        return await self._switch(record, loaded, reason), passed

    async def close(self) -> None:
        """Drain and end everything that is loaded."""
        everything = [*self._loaded.values()]
        self._loaded.clear()
        self._live.clear()
        await asyncio.gather(
            *(loaded.retire(self._drain_seconds) for loaded in everything),
            *self._retiring,
            return_exceptions=True,
        )

    async def _load(
        self, record: VersionRecord, bundle: VerifiedBundle | None = None
    ) -> LoadedVersion:
        """Verify (unless just verified), admit, start a worker; close everything on failure."""
        if bundle is None:
            path = self._store.path_of(record)
            bundle = await asyncio.to_thread(open_bundle, path, self._trust)
        try:
            if bundle.digest != record.digest:
                raise BundleError(
                    "digest-mismatch",
                    f"{record.name} {record.version}: the stored bundle is not the one journaled",
                )
            self._admit(record, await asyncio.to_thread(standing_of, bundle))
            variant = choose_variant(bundle.manifest, this_cpu())
            bundle = bundle.keep_variant(variant.id)
            host = await self._hosts(bundle)
        except BaseException:
            bundle.close()
            raise
        loaded = LoadedVersion(bundle, host, variant)
        self._loaded[record.key] = loaded
        return loaded

    def _admit(self, record: VersionRecord, standing: PrivacyStanding) -> None:
        """Ask the policy in force; raises ModelNotAdmitted."""
        require_admission(self._policy(), record.name, record.version, standing)

    async def _probe(self, loaded: LoadedVersion) -> int:
        """Run the version's own probes; return how many passed."""
        report = await run_probes(
            loaded.served.host, loaded.probes, timeout_seconds=self._probe_timeout_seconds
        )
        if report.failures:
            raise ProbesFailed(
                f"{loaded.served.name} {loaded.served.version} failed {len(report.failures)} of "
                f"{report.total} probes: {'; '.join(report.failures[:3])}"
            )
        return report.total

    async def _give_up(self, record: VersionRecord, error: BaseException, *, unload: bool) -> None:
        """Journal why a version did not go live, and end its worker if it is new.

        A previous version that was running goes on running.
        """
        reason = str(error) if isinstance(error, CasemateError) else type(error).__name__
        cancelled = isinstance(error, asyncio.CancelledError)
        if unload and (loaded := self._loaded.pop(record.key, None)) is not None:
            await loaded.unload()
        if record.state not in _ANSWERING:
            target = State.STAGED if cancelled else State.FAILED
            with contextlib.suppress(StoreError):
                await self._move((record, target, "interrupted" if cancelled else reason))
        _LOG.warning("%s %s did not go live: %s", record.name, record.version, reason)

    async def _switch(
        self, record: VersionRecord, loaded: LoadedVersion, reason: str
    ) -> VersionRecord:
        """Journal the change, then move the pointer, then retire what is left over."""
        name = record.name
        live = self._store.state.in_state(name, State.LIVE)
        previous = self._store.state.in_state(name, State.PREVIOUS)
        if live is None or live.key != record.key:
            moves = [(record, State.LIVE, reason)]
            if previous is not None and previous.key != record.key:
                moves.append((previous, State.RETIRED, f"{record.version} went live"))
            if live is not None:
                # Below the new floor it could never go live again: do not keep it running.
                keep = live.security_epoch >= record.security_epoch
                after = State.PREVIOUS if keep else State.RETIRED
                moves.append((live, after, f"replaced by {record.version}"))
            try:
                await self._move(*moves)
            except StoreError as error:
                await self._give_up(record, error, unload=record.state not in _ANSWERING)
                raise
        self._live[name] = loaded
        self._retire_unneeded(name)
        _LOG.info("%s %s is live", name, record.version)
        return self._store.get(name, record.version)

    async def _fall_back(self, live: VersionRecord, error: CasemateError) -> None:
        """The live version cannot be used: go to the previous one, and say so loudly.

        Without a usable previous version a bundle that does not verify is failed (so
        that it can be installed again), and one whose worker does not start stays
        live, to be tried at the next start. One that has expired, or that the policy
        does not admit, is not replaced by an older one: it stays live and is not served.
        """
        name = live.name
        self._report(f"live version {name} {live.version} cannot be used: {error}")
        if isinstance(error, BundleError) and error.reason == "expired":
            # Its signer ended its life; that is no reason to serve an older one.
            return
        if isinstance(error, ModelNotAdmitted):
            # The policy may change back. An operator who wants the older one rolls back.
            return
        previous = self._store.state.in_state(name, State.PREVIOUS)
        if previous is not None:
            try:
                loaded = await self._load(previous)
                await self._move(
                    (live, State.FAILED, str(error)),
                    (previous, State.LIVE, f"fallback: {live.version} could not be used"),
                )
            except CasemateError as second:
                self._report(f"fallback to {name} {previous.version} failed: {second}")
            else:
                self._live[name] = loaded
                self._report(f"fallback: {name} {previous.version} is live, not {live.version}")
                return
        if isinstance(error, BundleError):
            with contextlib.suppress(StoreError):
                await self._move((live, State.FAILED, str(error)))

    def _retire_unneeded(self, name: str) -> None:
        """Drain, in the background, loaded versions that are neither live nor previous."""
        kept = {
            record.key
            for record in self._store.versions(name)
            if record.state in {State.LIVE, State.PREVIOUS}
        }
        for key in [key for key in self._loaded if key[0] == name and key not in kept]:
            task = asyncio.create_task(self._retire(self._loaded.pop(key)))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, loaded: LoadedVersion) -> None:
        finished = await loaded.retire(self._drain_seconds)
        if not finished:
            _LOG.warning(
                "%s %s was ended with requests running after %g s",
                loaded.served.name,
                loaded.served.version,
                self._drain_seconds,
            )

    async def _move(self, *moves: tuple[VersionRecord, State, str]) -> Any:
        """Write the journal in a thread: an fsync may take a while."""
        return await asyncio.to_thread(self._store.move, *moves)

    def _report(self, event: str) -> None:
        _LOG.error("%s", event)
        self._on_event(event)
