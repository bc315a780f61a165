"""Running workers of tiny models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from runtime.worker.host import ModelHost
from runtime.worker.settings import WorkerConfig
from tests.support.bundles import SignedBundle, tiny_bundle

QUICK = WorkerConfig(
    threads=1,
    memory_limit_mib=2048,
    heartbeat_seconds=0.2,
    # Generous: a busy machine must not look like a hung worker.
    missed_heartbeats=60,
    restart_backoff_seconds=0.01,
    max_sequences=4,
)

StartHost = Callable[[str], "AsyncIterator[ModelHost]"]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SignedBundle]:
    """A signed bundle per task."""
    root: Path = tmp_path_factory.mktemp("bundles")
    tasks = ("generate", "embed", "classify", "tensor")
    return {task: tiny_bundle(root / task, task) for task in tasks}


@pytest_asyncio.fixture
async def text_host(bundles: dict[str, SignedBundle]) -> AsyncIterator[ModelHost]:
    host = ModelHost(bundles["generate"].open(), QUICK)
    await host.start()
    yield host
    await host.close()
