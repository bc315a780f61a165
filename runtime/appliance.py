"""The appliance: the parts, put together, started and stopped in order.

Start: 1. policy; 2. TLS files and peer verifier; 3. the log (locked, recovered);
4. the store (locked); 5. metrics; 6. gRPC listens and says "not ready"; 7. the
models load; 8. ready. Stop is the reverse: readiness off, new calls refused, running
ones end, workers end, then the store and, last, the log are closed, so that every
call that was answered is on record.

Each step that fails undoes the steps before it and raises what a person can act on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from runtime.config import Address, ApplianceConfig
from runtime.front.limits import Limiter
from runtime.front.pipeline import Pipeline
from runtime.front.recent import RecentVerifier
from runtime.front.registry import Services, build_registry
from runtime.front.server import GrpcServer
from runtime.front.stages.base import Parts
from runtime.front.stages.entries import operation_entry
from runtime.front.tls import ServerCredentials
from runtime.metrics import EngineReading, Metrics, MetricsServer
from runtime.models.catalog import CatalogConfig, ModelCatalog
from runtime.models.host import HostFactory
from runtime.models.hosting import worker_hosts
from runtime.policy.load import PolicyHolder
from runtime.policy.model import PolicyError
from runtime.store.state import State
from runtime.store.store import Store
from runtime.worker.host import ModelHost
from runtime.worker.settings import WorkerConfig
from security.audit.log import AuditLog
from security.audit.signer import LogSigner
from security.bundle.opening import Trust
from security.errors import CasemateError
from security.identity.watch import WatchedPeerVerifier

_LOG = logging.getLogger("casemate.appliance")
_UPKEEP_SECONDS = 2.0
# Beyond the drain, for a version that was replaced while calls ran on it.
_RETIRE_MARGIN_SECONDS = 30.0


def worker_config(config: ApplianceConfig) -> WorkerConfig:
    """Return the workers' limits."""
    workers, engine = config.workers, config.engine
    return WorkerConfig(
        threads=workers.threads,
        memory_limit_mib=workers.memory_limit_mib,
        start_timeout_seconds=workers.start_timeout_seconds,
        heartbeat_seconds=workers.heartbeat_seconds,
        drain_seconds=config.limits.drain_seconds,
        restart_limit=workers.restart_limit,
        restart_window_seconds=workers.restart_window_seconds,
        allow_missing_layers=workers.allow_missing_layers,
        kv_tokens=engine.kv_tokens,
        max_sequences=engine.max_sequences,
        step_tokens=engine.step_tokens,
        max_batch=engine.max_batch,
        max_queue_delay_us=engine.max_queue_delay_us,
        max_queue=engine.max_queue,
    )


class Appliance:
    """A running appliance. Use `running`, which starts and stops it.

    Args:
        config: the configuration.
        hosts: what runs the models, by default a sandboxed worker process for each.
    """

    def __init__(self, config: ApplianceConfig, *, hosts: HostFactory | None = None) -> None:
        self.config = config
        self._hosts = hosts or worker_hosts(worker_config(config), self._on_worker_event)
        self.metrics = Metrics()
        self.policies = PolicyHolder(config.policy)
        self.credentials = ServerCredentials(config.tls)
        tls = config.tls
        self.verifier = WatchedPeerVerifier(tls.trust_domain, tls.roots, tls.certificate, tls.crl)
        self.stopping = asyncio.Event()
        self.address = config.listen
        self.metrics_address = config.metrics_listen
        self.started_seconds = 0.0
        self._recording = False
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start everything; see the module's docstring.

        Raises:
            CasemateError: what is wrong and what to do about it.
        """
        began = time.monotonic()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        self.started_seconds = time.monotonic() - began

    async def _start(self) -> None:
        config, stack = self.config, self._stack
        trust = Trust.load(config.signers)
        signer = LogSigner.load(config.log.origin, config.log.key, config.log.cosigner_key)
        self.log = await asyncio.to_thread(AuditLog.open, config.audit, signer)
        stack.push_async_callback(asyncio.to_thread, self.log.close)
        self._recording = True
        self.store = await asyncio.to_thread(Store.open, config.store)
        stack.push_async_callback(asyncio.to_thread, self.store.close)
        catalog_config = CatalogConfig(
            drain_seconds=config.limits.max_deadline_seconds + _RETIRE_MARGIN_SECONDS
        )
        self.catalog = ModelCatalog(
            self.store,
            trust,
            self._hosts,
            config=catalog_config,
            on_event=self._on_event,
            policy=lambda: self.policies.current,
        )
        stack.push_async_callback(self.catalog.close)
        metrics_server = MetricsServer(self.metrics, config.metrics_listen)
        stack.callback(metrics_server.close)
        self.metrics_address = metrics_server.address
        self.metrics.engines.read = self._readings
        self._listen_parts()
        self.address = await self._server.start(config.listen)
        stack.push_async_callback(self._stop_server)
        await self.catalog.start()
        upkeep = asyncio.create_task(self._upkeep())
        stack.push_async_callback(_cancelled, upkeep)

    def _listen_parts(self) -> None:
        config = self.config
        self.parts = Parts(
            limits=config.limits,
            verifier=RecentVerifier(self.verifier),
            policies=self.policies,
            limiter=Limiter(config.limits.max_concurrent_calls),
            catalog=self.catalog,
            log=self.log,
            metrics=self.metrics,
        )
        self.pipeline = Pipeline(self.parts)
        self.metrics.audit_size.set_function(lambda: self.log.size)
        self.metrics.audit_healthy.set_function(lambda: float(self.log.healthy))
        self.metrics.open_calls.set_function(lambda: len(self.pipeline.open))
        services = Services(
            name=config.name,
            limits=config.limits,
            catalog=self.catalog,
            log=self.log,
            ready=lambda: self.ready,
        )
        self.specs = build_registry(services)
        self._server = GrpcServer(self.specs, self.pipeline, self.credentials, config.limits)

    @property
    def ready(self) -> bool:
        """Whether calls are answered: all live models loaded, the log healthy, not stopping."""
        return self.catalog.ready and self.log.healthy and not self.parts.draining

    def _on_worker_event(self, model: str, event: str) -> None:
        self.metrics.worker_events.labels(model, event).inc()

    def _on_event(self, event: str) -> None:
        """Put a change nobody asked for on record."""
        _LOG.warning("%s", event)
        pending = self.log.append(operation_entry(event))
        pending.add_done_callback(_note_failure)

    def _readings(self) -> Iterator[EngineReading]:
        """Read the gauges of live workers. Called from the metrics thread: reads only."""
        for record in self.store.versions():
            if record.state is not State.LIVE:
                continue
            with contextlib.suppress(CasemateError):
                host = self.catalog.resolve(record.name).host
                stats = host.stats() if isinstance(host, ModelHost) else None
                if stats is not None:
                    yield EngineReading(record.name, stats)

    async def _upkeep(self) -> None:
        """Bring the log back when its disk has room again, and say what is not in force."""
        said = ""
        while True:
            await asyncio.sleep(_UPKEEP_SECONDS)
            if not self.log.healthy:
                _LOG.error("the audit log takes no entries: %s", self.log.failure)
                if await asyncio.to_thread(self.log.probe_recovery):
                    _LOG.warning("the audit log takes entries again")
            problem = str(self.verifier.error or "")
            if problem and problem != said:
                _LOG.warning("the new trust files are not in force: %s", problem)
            said = problem

    def reload_policy(self) -> None:
        """Read the policy again; a bad one leaves the old one in force."""
        before = self.policies.current.digest
        try:
            policy = self.policies.reload()
        except PolicyError as error:
            _LOG.error("the policy stays as it was: %s", error)
            return
        _LOG.info("policy %s is in force", policy.digest[:12])
        # SIGHUP may come while the appliance still starts.
        if policy.digest != before and self._recording:
            pending = self.log.append(operation_entry(f"policy {policy.digest}"))
            pending.add_done_callback(_note_failure)

    async def _stop_server(self) -> None:
        await self._server.stop(self.config.limits.drain_seconds)

    async def stop(self) -> None:
        """Stop gracefully; see the module's docstring. Idempotent."""
        self.stopping.set()
        await self._stack.aclose()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _note_failure(pending: Future[int]) -> None:
    if pending.exception() is not None:
        _LOG.error("an operation could not be put on record")


@asynccontextmanager
async def running(
    config: ApplianceConfig, *, hosts: HostFactory | None = None
) -> AsyncIterator[Appliance]:
    """Start an appliance, and stop it gracefully at the end."""
    appliance = Appliance(config, hosts=hosts)
    await appliance.start()
    try:
        yield appliance
    finally:
        await appliance.stop()


async def serve(
    config: ApplianceConfig, on_ready: Callable[[Appliance], None], ready_file: Path | None = None
) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reloads the policy.

    Args:
        config: the configuration.
        on_ready: called once, when everything that should be served is.
        ready_file: written, with the address, when ready; removed at the end.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    appliance = Appliance(config)
    loop.add_signal_handler(signal.SIGHUP, appliance.reload_policy)
    starting = asyncio.create_task(appliance.start())
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await _cancelled(starting)
        stopped.cancel()
        return
    try:
        await starting
        on_ready(appliance)
        if ready_file is not None:
            _announce(ready_file, appliance.address)
        await stopped
        _LOG.info("stopping; running calls have %g s", config.limits.drain_seconds)
    finally:
        stopped.cancel()
        await appliance.stop()
        if ready_file is not None:
            _withdraw(ready_file)


def _withdraw(path: Path) -> None:
    """Remove the ready file."""
    path.unlink(missing_ok=True)


def _announce(path: Path, address: Address) -> None:
    """Write the ready file in one step, so that who waits for it never sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(f"{address}\n")
    draft.replace(path)
