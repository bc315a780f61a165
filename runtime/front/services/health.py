"""grpc.health.v1: for the appliance as a whole ("") and for each service by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.front.spec import Handler

_POLL_SECONDS = 0.25
_MAX_NAME_CHARS = 256


class _Health(Handler):
    def __init__(self, services: Collection[str], ready: Callable[[], bool]) -> None:
        self._services = services
        self._ready = ready

    def status(self, service: str) -> int:
        """Return the status of a service; all of them stand and fall together."""
        if service and service not in self._services:
            return int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        response = health_pb2.HealthCheckResponse
        return int(response.SERVING if self._ready() else response.NOT_SERVING)


class Check(_Health):
    """One answer."""

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the status; NOT_FOUND for an unknown service, as the protocol says."""
        status = self.status(call.request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise Refusal(
                grpc.StatusCode.NOT_FOUND, "UNKNOWN_SERVICE", "no such service", field="service"
            )
        yield health_pb2.HealthCheckResponse(status=status)


class Watch(_Health):
    """An answer now and at every change."""

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the status whenever it changes, until the client goes."""
        last = -1
        while True:
            status = self.status(call.request.service)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(_POLL_SECONDS)


class List(_Health):
    """The status of every service."""

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield all statuses."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=self.status(name))
            for name in ("", *self._services)
        }
        yield health_pb2.HealthListResponse(statuses=statuses)
