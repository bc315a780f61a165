"""Time to first token when a client comes back with a prefix it sent before.

    python -m benchmarks prefix

A 400-token prefix and a new ending of 20 tokens. "Cold" is the first time the
appliance sees the prefix from this client; "warm" is the same client again with
another ending; "stranger" is another client with the same prefix, which must be as
slow as cold, since caches are never shared across principals.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from pathlib import Path

from benchmarks import report
from benchmarks.prompts import prompts
from benchmarks.serving import GGUF, MODEL
from benchmarks.site import Site
from casemate import AsyncClient

ROUNDS = 8
PREFIX_TOKENS = 400
_ENDING_TOKENS = 20


async def _first_token(client: AsyncClient, prompt: str) -> tuple[float, int]:
    """Return milliseconds to the first piece, and the prompt tokens found in the cache."""
    began = time.perf_counter()
    first = 0.0
    async with client.generate(MODEL, prompt, max_tokens=2, temperature=0.0) as generation:
        async for _ in generation:
            first = first or (time.perf_counter() - began) * 1e3
        return first, generation.completion.usage.cached_tokens


async def _measure(owner: Path, stranger: Path) -> dict[str, float]:
    prefixes = prompts(GGUF, count=ROUNDS, tokens=PREFIX_TOKENS)
    endings = prompts(GGUF, count=2 * ROUNDS, tokens=_ENDING_TOKENS, offset=600)
    times: dict[str, list[float]] = {"cold": [], "warm": [], "stranger": []}
    cached: dict[str, list[int]] = {"cold": [], "warm": [], "stranger": []}
    async with AsyncClient.from_identity(owner) as one, AsyncClient.from_identity(stranger) as two:
        await _first_token(one, "warm up")
        for index, prefix in enumerate(prefixes):
            for name, client, ending in (
                ("cold", one, endings[2 * index]),
                ("warm", one, endings[2 * index + 1]),
                ("stranger", two, endings[2 * index + 1]),
            ):
                milliseconds, hits = await _first_token(client, f"{prefix} {ending}")
                times[name].append(milliseconds)
                cached[name].append(hits)
    row = {f"{name}_ttft_ms": round(statistics.median(values), 1) for name, values in times.items()}
    row |= {f"{name}_cached_tokens": max(values) for name, values in cached.items()}
    row["warm_to_cold"] = round(row["warm_ttft_ms"] / row["cold_ttft_ms"], 3)
    return row


def main() -> None:
    """Run the benchmark and write its result."""
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Site(Path("build/benchmarks/prefix")))
        owner, stranger = site.identity("owner"), site.identity("stranger")
        site.install(site.bundle(GGUF, MODEL, "1.0.0"))
        site.start()
        row = asyncio.run(_measure(owner, stranger))
    print("  ".join(f"{key} {value:g}" for key, value in row.items()))
    print("wrote", report.write("prefix", {"prefix_tokens": PREFIX_TOKENS, **row}))


if __name__ == "__main__":
    main()
