"""What a bad bundle is, and how the families collect theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from security.bundle.opening import OpenLimits

Change = Callable[[Path], object]

SMALL = OpenLimits(max_files=16, max_file_bytes=4 << 20, max_total_bytes=16 << 20)


@dataclass(frozen=True)
class BadBundle:
    """A change to a good signed bundle; `target` below it is opened then."""

    reason: str
    change: Change
    limits: OpenLimits = SMALL
    minimum_epoch: int = 0
    target: str = "."


@dataclass
class Family:
    """Bad bundles of one kind; names must be unique."""

    prefix: str
    members: dict[str, BadBundle] = field(default_factory=dict)

    def add(
        self,
        name: str,
        reason: str,
        change: Change,
        limits: OpenLimits = SMALL,
        minimum_epoch: int = 0,
        target: str = ".",
    ) -> None:
        """Register one."""
        full = f"{self.prefix}-{name}"
        if full in self.members:
            raise ValueError(f"two bad bundles are called {full}")
        self.members[full] = BadBundle(reason, change, limits, minimum_epoch, target)
