"""Load generators: closed loops of streaming clients against a server.

Both servers are driven by the same loop, from a process of its own, with the same
prompts: each client sends a request, reads its stream to the end and sends the
next, until every client has made its number of requests. Times are taken where a
client sees them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass

# One request: a prompt in; out comes 0 whenever text arrives and, last, the number
# of tokens that the server says it made (a message may hold several).
Stream = Callable[[str], AsyncIterator[int]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as its client saw it; seconds."""

    started: float
    arrivals: tuple[float, ...]
    tokens: int

    @property
    def time_to_first_token(self) -> float:
        """Seconds from the sending to the first text."""
        return self.arrivals[0] - self.started

    @property
    def gaps(self) -> list[float]:
        """Seconds between arrivals."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run of closed-loop clients saw."""

    clients: int
    requests: int
    tokens: int
    seconds: float
    tokens_per_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    inter_token_p50_ms: float
    inter_token_p99_ms: float

    def to_json(self) -> dict[str, float]:
        """Return the figures by name, rounded for reading."""
        return {key: round(value, 2) for key, value in asdict(self).items()}


def percentile(values: list[float], fraction: float) -> float:
    """Return the value below which `fraction` of the sorted values lie (nearest rank)."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def summarize(samples: list[Sample], clients: int) -> Summary:
    """Fold the samples of one run."""
    begin = min(sample.started for sample in samples)
    end = max(sample.arrivals[-1] for sample in samples)
    tokens = sum(sample.tokens for sample in samples)
    first = [sample.time_to_first_token * 1e3 for sample in samples]
    gaps = [gap * 1e3 for sample in samples for gap in sample.gaps]
    return Summary(
        clients=clients,
        requests=len(samples),
        tokens=tokens,
        seconds=end - begin,
        tokens_per_second=tokens / (end - begin),
        ttft_p50_ms=statistics.median(first),
        ttft_p99_ms=percentile(first, 0.99),
        inter_token_p50_ms=statistics.median(gaps) if gaps else 0.0,
        inter_token_p99_ms=percentile(gaps, 0.99),
    )


async def _sample(stream: Stream, prompt: str) -> Sample:
    started = time.perf_counter()
    arrivals: list[float] = []
    tokens = 0
    async for count in stream(prompt):
        if count == 0:
            arrivals.append(time.perf_counter())
        tokens += count
    return Sample(started, tuple(arrivals), tokens)


async def closed_loop(
    stream: Stream,
    prompts: list[str],
    *,
    clients: int,
    requests_per_client: int,
    stagger_seconds: float = 0.0,
) -> Summary:
    """Run `clients` loops at once, each with prompts of its own.

    Each client starts `stagger_seconds` after the one before it.
    """

    async def client(number: int) -> list[Sample]:
        await asyncio.sleep(number * stagger_seconds)
        first = number * requests_per_client
        mine = prompts[first : first + requests_per_client]
        return [await _sample(stream, prompt) for prompt in mine]

    if len(prompts) < clients * requests_per_client:
        raise ValueError("too few prompts: every request must be a fresh one")
    work: list[Awaitable[list[Sample]]] = [client(number) for number in range(clients)]
    results = await asyncio.gather(*work)
    return summarize([sample for result in results for sample in result], clients)
