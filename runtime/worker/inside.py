"""The requests that are inside one worker, and how many places each tenant has taken."""

from __future__ import annotations

from collections import Counter

from runtime.errors import FailureReason, WorkFailed
from runtime.worker.settings import WorkerConfig
from runtime.worker.streams import WorkStream


class Inside:
    """Streams by id. Invariant: no more than the queue, and a tenant's part of it, allow."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._streams: dict[int, WorkStream] = {}
        self._tenants: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, identifier: int) -> bool:
        return identifier in self._streams

    def check_room(self, tenant: bytes) -> None:
        """Raise WorkFailed(CAPACITY) when one request of `tenant` more is too many."""
        if len(self._streams) >= self._config.max_queue:
            raise WorkFailed(FailureReason.CAPACITY, "", "the model's queue is full")
        if self._tenants[tenant] >= self._config.places_per_tenant:
            raise WorkFailed(FailureReason.CAPACITY, "", "the tenant's part of the queue is full")

    def add(self, stream: WorkStream) -> None:
        """Take a place."""
        self._streams[stream.id] = stream
        self._tenants[stream.tenant] += 1

    def get(self, identifier: int) -> WorkStream | None:
        """Return the stream of a request that has not ended."""
        return self._streams.get(identifier)

    def remove(self, stream: WorkStream) -> None:
        """Give the place back."""
        del self._streams[stream.id]
        self._tenants[stream.tenant] -= 1
        if not self._tenants[stream.tenant]:
            del self._tenants[stream.tenant]

    def clear(self) -> list[WorkStream]:
        """Give all places back; return the streams."""
        streams = list(self._streams.values())
        self._streams.clear()
        self._tenants.clear()
        return streams
