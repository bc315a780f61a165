"""A version that is loaded, and who is using it.

A request leases a version from the moment it is resolved to its last byte. A
version that was replaced takes no new leases and is drained when the last one
ends: requests in flight finish where they began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from runtime.models.admission import standing_of
from runtime.models.host import Host
from runtime.policy.admission import PrivacyStanding
from runtime.probes import probes_of
from security.bundle.manifest import BundleManifest, Variant
from security.bundle.opening import VerifiedBundle


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """What a request sees of the version that answers it.

    Attributes:
        name: the model's name.
        version: semantic version.
        digest: 64 hex digits, goes into the answer and the audit entry.
        manifest: the signed manifest.
        manifest_json: its canonical bytes, as signed.
        host: takes the work.
        variant: the one of the bundle's variants that runs here.
        privacy: what the bundle says of its model's privacy.
    """

    name: str
    version: str
    digest: str
    manifest: BundleManifest
    manifest_json: bytes = field(repr=False)
    host: Host = field(repr=False)
    variant: Variant
    privacy: PrivacyStanding = field(default_factory=PrivacyStanding)


class LoadedVersion:
    """A served version with its bundle and its leases. Used in one event loop only."""

    def __init__(self, bundle: VerifiedBundle, host: Host, variant: Variant) -> None:
        manifest = bundle.manifest
        self.served = ServedVersion(
            name=manifest.name,
            version=manifest.version,
            digest=bundle.digest,
            manifest=manifest,
            manifest_json=bundle.files["bundle.json"].read(),
            host=host,
            variant=variant,
            privacy=standing_of(bundle),
        )
        self.probes = probes_of(bundle)
        self._bundle = bundle
        self._leases = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def leases(self) -> int:
        """How many requests are using it."""
        return self._leases

    @contextmanager
    def lease(self) -> Iterator[ServedVersion]:
        """Use the version; it is not drained before this ends."""
        self._leases += 1
        self._idle.clear()
        try:
            yield self.served
        finally:
            self._leases -= 1
            if not self._leases:
                self._idle.set()

    async def retire(self, timeout_seconds: float) -> bool:
        """Wait for the leases, then end the worker and drop the bundle's memory.

        Returns:
            Whether every request had finished; False when the time was up first.
        """
        finished = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            finished = False
        await self.unload(timeout_seconds if finished else 0.0)
        return finished

    async def unload(self, drain_seconds: float = 0.0) -> None:
        """End the worker, after what is running if `drain_seconds` is given."""
        try:
            if drain_seconds > 0:
                await self.served.host.drain(drain_seconds)
        finally:
            try:
                await self.served.host.close()
            finally:
                self._bundle.close()
