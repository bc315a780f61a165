"""Limits of workers are checked when they are given."""

from __future__ import annotations

import os
from typing import Any

import pytest

from runtime.errors import SettingsError
from runtime.worker.settings import WorkerConfig


@pytest.mark.parametrize(
    "field",
    [
        "memory_limit_mib",
        "heartbeat_seconds",
        "max_queue",
        "max_frame_bytes",
        "max_batch",
        "max_dropped_messages",
        "dropped_period_seconds",
    ],
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_protection_cannot_be_switched_off_by_accident(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=field):
        WorkerConfig(**{field: value})


@pytest.mark.parametrize(
    "field", ["threads", "kv_tokens", "max_sequences", "restart_limit", "max_queue_per_tenant"]
)
def test_negative_counts_are_refused(field: str) -> None:
    values: dict[str, Any] = {field: -1}
    with pytest.raises(SettingsError, match=field):
        WorkerConfig(**values)


def test_an_unknown_layer_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="landlok"):
        WorkerConfig(allow_missing_layers=("landlok",))


def test_no_threads_means_every_core_we_may_use() -> None:
    assert WorkerConfig().effective_threads == len(os.sched_getaffinity(0))
    assert WorkerConfig(threads=3).effective_threads == 3


@pytest.mark.parametrize(
    ("queue", "tenants", "per_tenant", "per_call"),
    [(256, 0, 128, 64), (1, 0, 1, 1), (3, 0, 1, 1), (8, 6, 6, 3), (8, 20, 8, 4)],
)
def test_a_tenant_and_a_call_get_a_part_of_the_queue(
    queue: int, tenants: int, per_tenant: int, per_call: int
) -> None:
    config = WorkerConfig(max_queue=queue, max_queue_per_tenant=tenants)
    assert (config.places_per_tenant, config.places_per_call) == (per_tenant, per_call)
