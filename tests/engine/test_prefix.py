"""Prefix reuse: right for the tenant it belongs to, and never seen by another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.config import EngineConfig
from runtime.engine.memory import MemoryBackend, Part
from runtime.engine.prefix import PrefixCache, common_prefix
from runtime.engine.types import Usage
from tests.engine.harness import Stream, running

SHARED = "the instructions that every request begins with. "


def test_the_same_tenant_reuses_its_prefix_and_gets_the_same_answer() -> None:
    with running(MemoryBackend(), EngineConfig(prefix_reuse=False)) as engine:
        cold = engine.generate(SHARED + "one")
        cold.done()
    with running(MemoryBackend()) as engine:
        engine.generate(SHARED + "two").done()
        warm = engine.generate(SHARED + "one")
        usage = warm.done().usage
    assert usage.cached_tokens == len(SHARED) + 1
    assert warm.text == cold.text


def test_another_tenant_gets_nothing_and_computes_everything() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        engine.generate(SHARED, tenant=b"alice").done()
        before = len(backend.steps)
        usage = engine.generate(SHARED, tenant=b"bob").done().usage
        again = engine.generate(SHARED, tenant=b"alice").done().usage
    assert usage == Usage(len(SHARED) + 1, 8, 0)
    # Not only the count: the whole prompt went through the model again.
    assert backend.steps[before][0].position == 0
    assert len(backend.steps[before][0].tokens) == len(SHARED) + 1
    assert again.cached_tokens > 0


def test_another_tenant_running_beside_shares_nothing() -> None:
    backend = MemoryBackend(scripts={SHARED.encode(): b"x" * 30})
    with running(backend) as engine:
        beside: list[Stream] = []

        def join(_parts: tuple[Part, ...]) -> None:
            if len(backend.steps) == 3:
                beside.append(engine.generate(SHARED, tenant=b"bob"))
                beside.append(engine.generate(SHARED, tenant=b"alice"))

        backend.before_decode = join
        engine.generate(SHARED, tenant=b"alice", max_tokens=30).done()
        bob, alice = (stream.done().usage.cached_tokens for stream in beside)
    assert bob == 0
    assert alice == len(SHARED)


def test_a_conversation_goes_on_in_the_cache_it_left() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        first = engine.generate("a question of some length")
        first.done()
        cells = backend.cells_used
        prompt = "a question of some length" + first.text + " and then?"
        usage = engine.generate(prompt, max_tokens=1).done().usage
    # All that was computed: the prompt and the answer less its last token.
    assert usage.cached_tokens == cells


def test_sharing_copies_no_cells() -> None:
    backend = MemoryBackend()
    with running(backend) as engine:
        for tail in "abcd":
            engine.generate(SHARED + tail, max_tokens=1).done()
        assert backend.cells_used == len(SHARED) + 1 + 4


def test_kept_prefixes_give_way_oldest_first() -> None:
    backend = MemoryBackend(kv_tokens=170)
    with running(backend) as engine:
        for letter in "abc":
            engine.generate(letter * 40, max_tokens=2).done()
        engine.generate("d" * 80, max_tokens=2).done()  # evicts a and b
        cached = [
            engine.generate(letter * 40, max_tokens=2).done().usage.cached_tokens for letter in "ca"
        ]
    assert cached == [40, 0]
    assert backend.cells_used <= 170


def test_a_full_cache_takes_the_prefix_over_instead_of_sharing_it() -> None:
    backend = MemoryBackend(kv_tokens=100)
    with running(backend) as engine:
        engine.generate("s" * 50 + "one", max_tokens=2).done()
        usage = engine.generate("s" * 50 + "two", max_tokens=20).done().usage
    assert usage.cached_tokens == 51


def test_reuse_stays_right_when_slots_run_out() -> None:
    backend = MemoryBackend(sequence_slots=2)
    texts = [SHARED + str(index) for index in range(5)] * 2
    with running(MemoryBackend(), EngineConfig(prefix_reuse=False)) as engine:
        expected = [engine.generate(text) for text in texts]
        engine.engine.drain(30)
    with running(backend) as engine:
        streams = [engine.generate(text) for text in texts]
        engine.engine.drain(30)
    assert [stream.text for stream in streams] == [stream.text for stream in expected]


def test_a_prefix_below_the_minimum_is_not_reused() -> None:
    with running(MemoryBackend(), EngineConfig(prefix_min_tokens=30)) as engine:
        engine.generate("same start, one").done()
        assert engine.generate("same start, two").done().usage.cached_tokens == 0


def test_reuse_can_be_turned_off() -> None:
    backend = MemoryBackend()
    with running(backend, EngineConfig(prefix_reuse=False)) as engine:
        engine.generate(SHARED).done()
        assert backend.cells_used == 0
        assert engine.generate(SHARED).done().usage.cached_tokens == 0


def test_the_counters_count_tokens() -> None:
    with running(MemoryBackend()) as engine:
        engine.generate(SHARED).done()
        engine.generate(SHARED).done()
        stats = engine.engine.stats()
    assert stats.prefix_queries == 2 * (len(SHARED) + 1)
    assert stats.prefix_hits == len(SHARED)


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_prefix_is_what_a_loop_finds(left: list[int], right: list[int]) -> None:
    expected = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        expected += 1
    assert common_prefix(np.array(left, np.int32), np.array(right, np.int32)) == expected


def test_entries_of_other_tenants_are_not_found() -> None:
    cache = PrefixCache()
    cache.keep(0, b"alice", [1, 2, 3])
    assert cache.longest(b"bob", np.array([1, 2, 3], np.int32)) == (None, 0)
    kept, length = cache.longest(b"alice", np.array([1, 2, 9], np.int32))
    assert kept is not None
    assert (kept.slot, length, cache.tokens_held) == (0, 2, 3)
    cache.take(0)
    assert (len(cache), cache.tokens_held, cache.oldest()) == (0, 0, None)
