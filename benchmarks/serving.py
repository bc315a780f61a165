"""The appliance against llama.cpp's own server and against the bare C-API loop.

    python -m benchmarks serving

The same GGUF file, 110-token prompts that were not seen before, 64 new tokens,
greedy, at 1, 4, 8 and 16 closed-loop clients. The appliance runs as it ships: mutual
TLS 1.3, filter rules, durable audit, receipts verified by the client. llama-server
runs in plaintext. The bare loop is a static batch in process: prefill, decode,
argmax, no server. Rounds alternate between the three; the figures are medians over
the rounds, and each ratio is the median of the rounds' own ratios.

Two arrivals. "in_step": all clients start at the same moment, and since all answers
are equally long they stay in step, the easiest case for batching. "independent": each
client starts a little after the one before, as clients that know nothing of each
other do.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks import llama_server, load, report
from benchmarks.bare_loop import BareLoop
from benchmarks.prompts import prompts
from benchmarks.site import Site
from casemate import AsyncClient

GGUF = Path("build/models/gemma-3-270m-q4_k_m.gguf")
MODEL = "gemma-3-270m"
CLIENTS = (1, 4, 8, 16)
ROUNDS = 2
PROMPT_TOKENS = 110
NEW_TOKENS = 64
# Requests each client makes one after the other in a round.
_REQUESTS = {1: 3, 4: 2, 8: 2, 16: 2}
# Seconds between the starts of independent clients: their starts spread over about
# the time that one answer takes.
_STAGGER_SECONDS = {1: 0.0, 4: 0.6, 8: 0.45, 16: 0.35}
_LONGEST_TOKENS = 192

Row = dict[str, float]


def appliance_stream(client: AsyncClient, *, new_tokens: int) -> load.Stream:
    """Return a stream of greedy completions through the client library."""

    async def stream(prompt: str) -> AsyncIterator[int]:
        async with client.generate(
            MODEL, prompt, max_tokens=new_tokens, temperature=0.0
        ) as generation:
            async for _ in generation:
                yield 0
            yield generation.completion.usage.completion_tokens

    return stream


class Prompts:
    """Fresh prompts, handed out once each."""

    def __init__(self, gguf: Path, count: int) -> None:
        self._texts = iter(prompts(gguf, count=count, tokens=PROMPT_TOKENS - 1))

    def take(self, count: int) -> list[str]:
        """Return the next prompts."""
        return [next(self._texts) for _ in range(count)]


def _bare_round(loop: BareLoop, texts: list[str], clients: int, requests: int) -> float:
    """Return tokens/s of the bare loop over as many waves as a client makes requests."""
    rates = []
    for wave in range(requests):
        tokens = [loop.tokenize(text) for text in texts[wave * clients : (wave + 1) * clients]]
        rates.append(loop.run(tokens, NEW_TOKENS).tokens_per_second)
    return statistics.harmonic_mean(rates)


def _median(rows: list[Row], key: str) -> float:
    return round(statistics.median(row[key] for row in rows), 2)


async def _round(
    client: AsyncClient,
    url: str,
    loop: BareLoop,
    source: Prompts,
    clients: int,
    stagger_seconds: float,
) -> Row:
    requests = _REQUESTS[clients]
    count = clients * requests
    bare = _bare_round(loop, source.take(count), clients, requests)
    theirs = await load.closed_loop(
        llama_server.stream(url, new_tokens=NEW_TOKENS),
        source.take(count),
        clients=clients,
        requests_per_client=requests,
        stagger_seconds=stagger_seconds,
    )
    ours = await load.closed_loop(
        appliance_stream(client, new_tokens=NEW_TOKENS),
        source.take(count),
        clients=clients,
        requests_per_client=requests,
        stagger_seconds=stagger_seconds,
    )
    row = {"bare_tokens_per_second": bare}
    for name, summary in (("casemate", ours), ("llama_server", theirs)):
        row |= {f"{name}_{key}": value for key, value in summary.to_json().items()}
    row["ratio_to_llama_server"] = ours.tokens_per_second / theirs.tokens_per_second
    row["ratio_to_bare_loop"] = ours.tokens_per_second / bare
    return row


_REPORTED = (
    "casemate_tokens_per_second",
    "llama_server_tokens_per_second",
    "bare_tokens_per_second",
    "ratio_to_llama_server",
    "ratio_to_bare_loop",
    "casemate_ttft_p50_ms",
    "llama_server_ttft_p50_ms",
    "casemate_ttft_p99_ms",
    "llama_server_ttft_p99_ms",
    "casemate_inter_token_p99_ms",
    "llama_server_inter_token_p99_ms",
)


async def _measure(identity: Path, url: str, source: Prompts, rounds: int) -> list[Row]:
    table = []
    async with AsyncClient.from_identity(identity) as client:
        for clients in CLIENTS:
            loop = BareLoop(GGUF, clients=clients, tokens=_LONGEST_TOKENS)
            # The first round warms all three up.
            await _round(client, url, loop, source, clients, 0.0)
            staggers = sorted({0.0, _STAGGER_SECONDS[clients]})
            for stagger in staggers:
                rows = [
                    await _round(client, url, loop, source, clients, stagger) for _ in range(rounds)
                ]
                table.append(_row(clients, stagger, rows))
                print("  ".join(f"{key} {value}" for key, value in table[-1].items()), flush=True)
            loop.close()
    return table


def _row(clients: int, stagger: float, rounds: list[Row]) -> Row:
    row: Row = {"clients": clients, "independent": int(stagger > 0)}
    row |= {key: _median(rounds, key) for key in _REPORTED}
    ratios = [each["ratio_to_llama_server"] for each in rounds]
    row["ratio_to_llama_server_min"] = round(min(ratios), 2)
    row["ratio_to_llama_server_max"] = round(max(ratios), 2)
    return row


def main(rounds: int = ROUNDS) -> None:
    """Run the benchmark and write its result."""
    total = sum(3 * clients * _REQUESTS[clients] for clients in CLIENTS) * (2 * rounds + 1)
    source = Prompts(GGUF, total)
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Site(Path("build/benchmarks/serving")))
        identity = site.identity("bench")
        site.install(site.bundle(GGUF, MODEL, "1.0.0"))
        site.start()
        slots = max(CLIENTS)
        url = stack.enter_context(
            llama_server.serving(GGUF, slots=slots, context_tokens=slots * 512)
        )
        table = asyncio.run(_measure(identity, url, source, rounds))
    shape = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "rounds": rounds}
    print("wrote", report.write("serving", {**shape, "by_clients": table}))


if __name__ == "__main__":
    main()
