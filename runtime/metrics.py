"""Prometheus metrics: vLLM's names with our prefix, on a loopback port.

Labels are model names, methods, status codes, rule names and reasons: all from the
configuration or from the code, never from a request's text and never a principal.
A model's name is a label only once the call holds a version of it, so that a
client cannot make labels up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.config import Address
from security.errors import UsageError

if TYPE_CHECKING:
    from runtime.front.call import Call

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


@dataclass(frozen=True, slots=True)
class EngineReading:
    """The gauges of one model's worker at one moment."""

    model: str
    stats: worker_pb2.Pong


class _Engines(Collector):
    """Reads the workers' last heartbeats when it is asked."""

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[EngineReading]] = tuple

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "casemate_num_requests_running", "Requests being decoded", labels=["model_name"]
        )
        waiting = GaugeMetricFamily(
            "casemate_num_requests_waiting", "Requests waiting for a place", labels=["model_name"]
        )
        cache = GaugeMetricFamily(
            "casemate_kv_cache_usage_perc", "Share of the KV cache in use", labels=["model_name"]
        )
        queries = CounterMetricFamily(
            "casemate_prefix_cache_queries", "Prompt tokens looked up", labels=["model_name"]
        )
        hits = CounterMetricFamily(
            "casemate_prefix_cache_hits", "Prompt tokens found", labels=["model_name"]
        )
        for reading in self.read():
            label, stats = [reading.model], reading.stats
            running.add_metric(label, stats.running)
            waiting.add_metric(label, stats.waiting)
            total = stats.kv_tokens_total
            cache.add_metric(label, stats.kv_tokens_used / total if total else 0.0)
            queries.add_metric(label, stats.prefix_queries)
            hits.add_metric(label, stats.prefix_hits)
        yield from (running, waiting, cache, queries, hits)


class Metrics:
    """The appliance's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model, registry = ["model_name"], self.registry
        self._prompt = Counter("casemate_prompt_tokens", "Prompt tokens", model, registry=registry)
        self._generated = Counter(
            "casemate_generation_tokens", "Generated tokens", model, registry=registry
        )
        self._success = Counter(
            "casemate_request_success", "Calls that succeeded", model, registry=registry
        )
        self._first = Histogram(
            "casemate_time_to_first_token_seconds",
            "From arrival to the first message of an answer",
            model,
            buckets=_LATENCY,
            registry=registry,
        )
        self._between = Histogram(
            "casemate_inter_token_latency_seconds",
            "Mean time between the messages of one answer",
            model,
            buckets=_INTER_TOKEN,
            registry=registry,
        )
        self._whole = Histogram(
            "casemate_e2e_request_latency_seconds",
            "From arrival to the final status",
            model,
            buckets=_LATENCY,
            registry=registry,
        )
        self._queue = Histogram(
            "casemate_request_queue_time_seconds",
            "Waiting for a place in the engine",
            model,
            buckets=_LATENCY,
            registry=registry,
        )
        self._calls = Counter(
            "casemate_calls", "Calls by method and status", ["method", "code"], registry=registry
        )
        self._denials = Counter(
            "casemate_denials", "Refused calls by reason", ["reason"], registry=registry
        )
        self._verdicts = Counter(
            "casemate_filter_verdicts", "Rules that matched", ["rule", "action"], registry=registry
        )
        self.audit_size = Gauge(
            "casemate_audit_entries", "Durable entries of the audit log", registry=registry
        )
        self.audit_healthy = Gauge(
            "casemate_audit_healthy", "Whether the audit log takes entries", registry=registry
        )
        self.open_calls = Gauge("casemate_open_calls", "Calls running now", registry=registry)
        self.worker_events = Counter(
            "casemate_worker_events",
            "Workers that became ready, crashed, or were given up",
            ["model_name", "event"],
            registry=registry,
        )
        self.engines = _Engines()
        registry.register(self.engines)

    def observe(self, call: Call) -> None:
        """Count a call that has ended."""
        self._calls.labels(call.spec.name, call.code.name).inc()
        if call.refusal is not None:
            self._denials.labels(call.refusal.reason).inc()
        for verdict in call.verdicts:
            rule, _, action = verdict.rpartition(":")
            self._verdicts.labels(rule, action).inc()
        if call.served is None:
            return
        model = call.served.name
        self._whole.labels(model).observe(call.elapsed())
        if call.refusal is None:
            self._success.labels(model).inc()
        if call.usage.prompt_tokens:
            self._prompt.labels(model).inc(call.usage.prompt_tokens)
        if call.usage.completion_tokens:
            self._generated.labels(model).inc(call.usage.completion_tokens)
        if call.queue_ms is not None:
            self._queue.labels(model).observe(call.queue_ms / 1000)
        if call.first_token is not None:
            self._first.labels(model).observe(call.first_token - call.started)
            if call.last_token is not None and call.messages_sent > 1:
                between = (call.last_token - call.first_token) / (call.messages_sent - 1)
                self._between.labels(model).observe(between)


class MetricsServer:
    """Serves a registry over HTTP in a thread, on a loopback address only."""

    def __init__(self, metrics: Metrics, address: Address) -> None:
        """Listen; raise UsageError when the port is taken or the address is not loopback."""
        if not address.is_loopback:
            raise UsageError("metrics are served on a loopback address only")
        try:
            started = start_http_server(address.port, addr=address.host, registry=metrics.registry)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {address} for metrics: {error.strerror}; "
                "change appliance.metrics_listen"
            ) from None
        self._server: WSGIServer = started[0]
        self._thread: threading.Thread = started[1]
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
