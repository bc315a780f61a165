"""Runs a version's probes against its worker and says which did not pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.probes.compare import compare
from runtime.probes.model import Probe
from runtime.probes.outcome import ask
from security.errors import CasemateError

if TYPE_CHECKING:
    from runtime.models.host import Submitter


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What running all probes gave.

    Attributes:
        total: how many were run.
        failures: one line per probe that did not pass; no text of theirs.
    """

    total: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> int:
        """How many passed."""
        return self.total - len(self.failures)


async def run_probes(
    target: Submitter, probes: Sequence[Probe], *, timeout_seconds: float
) -> ProbeReport:
    """Run probes one after another, so that each is alone in its batch.

    A worker that fails or dies fails the probe; time running out fails it and all
    that follow. Never raises for what a worker does.
    """
    failures: list[str] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_seconds
    for probe in probes:
        try:
            async with asyncio.timeout_at(until):
                problem = compare(probe, await ask(target, probe))
        except TimeoutError:
            problem = f"no answer within {timeout_seconds:g} s for all probes"
        except CasemateError as error:
            problem = str(error)
        if problem is not None:
            failures.append(f"probe {probe.id} ({probe.kind}): {problem}")
    return ProbeReport(len(probes), tuple(failures))
