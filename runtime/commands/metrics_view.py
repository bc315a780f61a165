"""What `casemate top` shows, computed from two readings of the metrics. Pure.

Rates are differences between readings over the time between them; quantiles are
estimated from histogram buckets, linear within a bucket, as Prometheus does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "casemate_"
_TTFT = "time_to_first_token_seconds"


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics at one moment.

    Attributes:
        at_seconds: monotonic time of the reading.
        samples: (sample name without our prefix, sorted labels) -> value.
    """

    at_seconds: float
    samples: Mapping[tuple[str, tuple[tuple[str, str], ...]], float] = field(repr=False)

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that carry these labels; 0 without any."""
        wanted = set(labels.items())
        return sum(
            value
            for (sample, own), value in self.samples.items()
            if sample == name and wanted <= set(own)
        )

    def labels(self, name: str, label: str) -> list[str]:
        """Return the values of a label, over all samples of a name, sorted."""
        found = {dict(own).get(label, "") for sample, own in self.samples if sample == name}
        return sorted(found - {""})

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """Return a histogram's (upper bound, cumulative count), by bound."""
        wanted = set(labels.items())
        return sorted(
            (float(dict(own)["le"]), value)
            for (sample, own), value in self.samples.items()
            if sample == f"{name}_bucket" and wanted <= set(own)
        )


def read_metrics(text: str, at_seconds: float) -> Reading:
    """Read the Prometheus text format, our own metrics only."""
    samples = {
        (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    }
    return Reading(at_seconds, MappingProxyType(samples))


def quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Estimate a quantile in the histogram's unit; None when it is empty."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return lower
            inside = count - below
            return bound if inside <= 0 else lower + (bound - lower) * (rank - below) / inside
        lower, below = bound, count
    return lower


def view(now: Reading, before: Reading | None) -> dict[str, Any]:
    """Return what is shown; rates are None without an earlier reading."""
    models = sorted(
        {*now.labels("num_requests_running", "model_name")}
        | {*now.labels("request_success_total", "model_name")}
    )
    return {
        "models": [_model(name, now, before) for name in models],
        "open_calls": int(now.value("open_calls")),
        "denials": {
            reason: int(now.value("denials_total", reason=reason))
            for reason in now.labels("denials_total", "reason")
        },
        "audit_entries": int(now.value("audit_entries")),
        "audit_healthy": now.value("audit_healthy") > 0,
    }


def _model(name: str, now: Reading, before: Reading | None) -> dict[str, Any]:
    queries = now.value("prefix_cache_queries_total", model_name=name)
    hits = now.value("prefix_cache_hits_total", model_name=name)
    buckets = now.buckets(_TTFT, model_name=name)
    return {
        "name": name,
        "running": int(now.value("num_requests_running", model_name=name)),
        "waiting": int(now.value("num_requests_waiting", model_name=name)),
        "generated_tokens_per_second": _rate("generation_tokens_total", name, now, before),
        "prompt_tokens_per_second": _rate("prompt_tokens_total", name, now, before),
        "succeeded": int(now.value("request_success_total", model_name=name)),
        "ttft_p50_seconds": quantile(buckets, 0.5),
        "ttft_p99_seconds": quantile(buckets, 0.99),
        "kv_cache_usage": now.value("kv_cache_usage_perc", model_name=name),
        "prefix_hit_rate": hits / queries if queries else None,
    }


def _rate(metric: str, model: str, now: Reading, before: Reading | None) -> float | None:
    if before is None or now.at_seconds <= before.at_seconds:
        return None
    grown = now.value(metric, model_name=model) - before.value(metric, model_name=model)
    # A counter that went down was reset: the appliance was started again.
    return max(0.0, grown) / (now.at_seconds - before.at_seconds)
