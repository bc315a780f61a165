"""The real host: sandboxed workers, one per loaded version."""

from __future__ import annotations

from collections.abc import Callable

from runtime.models.host import Host, HostFactory
from runtime.worker.host import ModelHost
from runtime.worker.settings import WorkerConfig
from security.bundle.opening import VerifiedBundle


def worker_hosts(
    config: WorkerConfig, on_event: Callable[[str, str], None] | None = None
) -> HostFactory:
    """Return a factory of worker processes.

    Args:
        config: limits of each worker.
        on_event: told (model name, event of `ModelHost`), for metrics.
    """

    async def start(bundle: VerifiedBundle) -> Host:
        name = bundle.manifest.name
        tell = None if on_event is None else lambda event: on_event(name, event)
        host = ModelHost(bundle, config, on_event=tell)
        await host.start()
        return host

    return start
