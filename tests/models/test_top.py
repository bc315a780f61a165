from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runtime.commands.metrics_view import quantile, read_metrics, view
from runtime.commands.top import command
from security.errors import CasemateError


def metrics(tokens: int, *, healthy: bool = True) -> str:
    registry = CollectorRegistry()
    running = Gauge("casemate_num_requests_running", "x", ["model_name"], registry=registry)
    running.labels("m").set(3)
    made = Counter("casemate_generation_tokens", "x", ["model_name"], registry=registry)
    made.labels("m").inc(tokens)
    first = Histogram(
        "casemate_time_to_first_token_seconds",
        "x",
        ["model_name"],
        buckets=(0.1, 0.2, 0.4),
        registry=registry,
    )
    for seconds in (0.05, 0.15, 0.15, 0.3):
        first.labels("m").observe(seconds)
    denials = Counter("casemate_denials", "x", ["reason"], registry=registry)
    denials.labels("NO_CERTIFICATE").inc(2)
    Gauge("casemate_audit_healthy", "x", registry=registry).set(1 if healthy else 0)
    Gauge("casemate_audit_entries", "x", registry=registry).set(41)
    Gauge("other_thing", "x", registry=registry).set(1)
    return str(generate_latest(registry).decode())


def test_a_view_is_made_of_two_readings() -> None:
    shown = view(read_metrics(metrics(150), 12.0), read_metrics(metrics(50), 10.0))
    (model,) = shown["models"]
    assert model["name"] == "m"
    assert model["running"] == 3
    assert model["generated_tokens_per_second"] == 50.0
    assert 0.1 < model["ttft_p50_seconds"] < 0.2
    assert shown["denials"] == {"NO_CERTIFICATE": 2}
    assert (shown["audit_entries"], shown["audit_healthy"]) == (41, True)


def test_a_restart_between_readings_is_no_negative_rate() -> None:
    shown = view(read_metrics(metrics(1), 12.0), read_metrics(metrics(500), 10.0))
    assert shown["models"][0]["generated_tokens_per_second"] == 0.0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(0, 1))
def test_quantiles_lie_within_the_buckets(counts: list[int], share: float) -> None:
    total, buckets = 0, []
    for number, count in enumerate(counts):
        total += count
        buckets.append((float(number + 1), float(total)))
    found = quantile(buckets, share)
    assert (found is None) == (total == 0)
    if found is not None:
        assert 0.0 <= found <= len(counts)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(metrics(7).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


def test_once_as_json_and_as_text(address: str) -> None:
    common = ["--url", address, "--interval", "0.2", "--once"]
    found = CliRunner().invoke(command, [*common, "--json"], catch_exceptions=False)
    assert json.loads(found.stdout)["models"][0]["name"] == "m"
    shown = CliRunner().invoke(command, common, catch_exceptions=False).stdout
    assert "NO_CERTIFICATE 2" in shown
    assert "41 entries" in shown


def test_nothing_there_says_so() -> None:
    with pytest.raises(CasemateError, match="is the appliance running"):
        CliRunner().invoke(
            command, ["--url", "http://127.0.0.1:1/metrics", "--once"], catch_exceptions=False
        )
