"""What the supervisor is told about workers: every limit, named, validated, frozen.

Refuses values that would switch a protection off by accident (a zero or negative
limit, an unknown sandbox layer).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from runtime.errors import SettingsError

# The layers an operator may give up by name; see sandbox.py for what each does.
LAYERS = frozenset({"session", "rlimits", "no_new_privs", "landlock", "seccomp"})
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Limits of one worker process and of the supervision around it.

    Raises `SettingsError` for a value out of range. Zero for `threads` means every core
    this process may use, and for `kv_tokens` and `max_sequences` the bundle's own limit.
    """

    threads: int = 0
    memory_limit_mib: int = 4096
    max_open_files: int = 64
    start_timeout_seconds: float = 60.0
    heartbeat_seconds: float = 2.0
    # So many heartbeats in a row without an answer, and the worker is taken for hung.
    missed_heartbeats: int = 5
    # The engine has work but finishes none of it for so long: hung, too.
    stall_seconds: float = 120.0
    drain_seconds: float = 20.0
    restart_limit: int = 5
    restart_window_seconds: float = 60.0
    restart_backoff_seconds: float = 0.1
    restart_backoff_max_seconds: float = 10.0
    allow_missing_layers: tuple[str, ...] = ()
    kv_tokens: int = 0
    max_sequences: int = 0
    step_tokens: int = 512
    max_batch: int = 32
    max_queue_delay_us: int = 2000
    # Requests that may be inside the worker, running and waiting together.
    max_queue: int = 256
    # How many of those one tenant may take; 0 means half, so that there is room for others.
    max_queue_per_tenant: int = 0
    # Messages that answer nothing: so many within the period, and the worker is killed.
    max_dropped_messages: int = 100
    dropped_period_seconds: float = 10.0
    max_frame_bytes: int = 32 * MIB
    # What may wait for one slow reader before its stream is failed.
    max_stream_bytes: int = 8 * MIB

    def __post_init__(self) -> None:
        """Check every field once, so that nothing downstream has to."""
        for name in _POSITIVE:
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise SettingsError(f"{name} must be above 0, not {value}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must be 0 or more, not {getattr(self, name)}")
        unknown = sorted(set(self.allow_missing_layers) - LAYERS)
        if unknown:
            raise SettingsError(
                f"allow_missing_layers: unknown layer {unknown[0]!r}; "
                f"the layers are {', '.join(sorted(LAYERS))}"
            )

    @property
    def effective_threads(self) -> int:
        """Threads for the engine: as configured, or every core this process may use."""
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def places_per_tenant(self) -> int:
        """Places of the queue that one tenant may take: as configured, or half of them."""
        return min(self.max_queue, self.max_queue_per_tenant or max(1, self.max_queue // 2))

    @property
    def places_per_call(self) -> int:
        """Places of the queue that one call of many texts may take."""
        return max(1, self.places_per_tenant // 2)


_NOT_NEGATIVE = (
    "threads",
    "kv_tokens",
    "max_sequences",
    "max_queue_delay_us",
    "max_queue_per_tenant",
    "restart_limit",
)
_POSITIVE = (
    "memory_limit_mib",
    "max_open_files",
    "start_timeout_seconds",
    "heartbeat_seconds",
    "missed_heartbeats",
    "stall_seconds",
    "drain_seconds",
    "restart_window_seconds",
    "restart_backoff_seconds",
    "restart_backoff_max_seconds",
    "step_tokens",
    "max_batch",
    "max_queue",
    "max_dropped_messages",
    "dropped_period_seconds",
    "max_frame_bytes",
    "max_stream_bytes",
)
