from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.client.tensors import Tensor
from casemate.pb.casemate.v1 import text_pb2
from runtime.probes import parse_probes, run_probes
from runtime.probes.compare import compare
from runtime.probes.model import MAX_PROBES, Probe, encode_probes
from runtime.probes.outcome import Outcome
from runtime.probes.record import record, sure_chars
from runtime.probes.requests import work_for
from runtime.worker.settings import WorkerConfig
from runtime.worker.supervisor import WorkerProcess
from security.bundle.opening import open_unsigned
from security.errors import BundleError
from tests.support.bundles import tiny_bundle

SECRET = "the secret words"
NAN = float("nan")


def probe(kind: str, expect: dict[str, Any], tolerance: dict[str, Any]) -> Probe:
    return Probe("p1", kind, {}, expect, tolerance)


def line(**changes: Any) -> bytes:
    value = {"id": "p1", "kind": "score", "request": {}, "expect": {}, "tolerance": {}} | changes
    return json.dumps(value).encode() + b"\n"


BAD_FILES = {
    "not-json": b"{",
    "an-array": b"[]\n",
    "missing-key": b'{"id":"p1","kind":"score","request":{},"expect":{}}\n',
    "extra-key": line(more=1),
    "unknown-kind": line(kind="guess"),
    "bad-id": line(id="a b"),
    "request-no-object": line(request=[]),
    "duplicate-id": line() * 2,
    "duplicate-key": line().replace(b"{", b'{"id": "p0", ', 1),
    "too-many": b"".join(line(id=f"p{number}") for number in range(MAX_PROBES + 1)),
}


@pytest.mark.parametrize("data", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError) as raised:
        parse_probes(data)
    assert raised.value.reason == "bad-probes"


def test_an_empty_file_is_no_probes() -> None:
    with pytest.raises(BundleError) as raised:
        parse_probes(b"")
    assert raised.value.reason == "no-probes"


NAMES = st.text("abc", min_size=1, max_size=5)
OBJECTS = st.dictionaries(NAMES, st.integers(-9, 9) | st.text(max_size=5), max_size=3)


@given(st.lists(st.tuples(OBJECTS, OBJECTS, OBJECTS), min_size=1, max_size=4))
def test_what_is_written_is_read(parts: list[tuple[dict[str, Any], ...]]) -> None:
    probes = tuple(Probe(f"p{n}", "score", *part) for n, part in enumerate(parts))
    encoded = encode_probes(probes)
    assert parse_probes(encoded) == probes
    assert encode_probes(parse_probes(encoded)) == encoded


GOOD_AND_BAD: list[tuple[Probe, Outcome, Outcome]] = [
    (
        probe("generate", {"text": "abcdef"}, {"prefix_chars": 3}),
        Outcome(text="abcXYZ"),
        Outcome(text="abXXXX"),
    ),
    (
        probe("generate", {"text": "ab", "logprob": -5.0}, {"prefix_chars": 0, "logprob": 0.5}),
        Outcome(text="zz", logprobs=(-5.4,)),
        Outcome(text="ab", logprobs=(-5.6,)),
    ),
    (
        probe("score", {"logprobs": [-1.0, -2.0]}, {"logprob": 0.1}),
        Outcome(logprobs=(-1.05, -1.95)),
        Outcome(logprobs=(-1.0,)),
    ),
    (
        probe("score", {"logprobs": [-1.0]}, {"logprob": 0.1}),
        Outcome(logprobs=(-1.0,)),
        Outcome(logprobs=(NAN,)),
    ),
    (
        probe("embed", {"embeddings": [[1.0, 0.0]]}, {"cosine": 0.9}),
        Outcome(vectors=((2.0, 0.1),)),
        Outcome(vectors=((0.0, 1.0),)),
    ),
    (
        probe("embed", {"embeddings": [[1.0, 0.0]]}, {"cosine": 0.9}),
        Outcome(vectors=((1.0, 0.0),)),
        Outcome(vectors=((NAN, NAN),)),
    ),
    (
        probe("classify", {"labels": ["a"], "scores": [0.8]}, {"score": 0.1}),
        Outcome(labels=((("a", 0.75), ("b", 0.25)),)),
        Outcome(labels=((("b", 0.8), ("a", 0.2)),)),
    ),
    (
        probe("classify", {"labels": ["a"], "scores": [0.8]}, {"score": 0.1}),
        Outcome(labels=((("a", 0.8),),)),
        Outcome(labels=((("a", 0.6),),)),
    ),
    (
        probe(
            "tensor",
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, 10.0]}]},
            {"absolute": 0.1, "relative": 0.1},
        ),
        Outcome(tensors={"y": Tensor("y", "FP32", (2,), (1.1, 11.0))}),
        Outcome(tensors={"y": Tensor("y", "FP32", (2,), (1.0, NAN))}),
    ),
]


@pytest.mark.parametrize(("asked", "good", "bad"), GOOD_AND_BAD)
def test_what_is_near_passes_and_what_is_far_does_not(
    asked: Probe, good: Outcome, bad: Outcome
) -> None:
    assert compare(asked, good) is None
    assert compare(asked, bad) is not None


def test_a_reason_never_quotes_the_text() -> None:
    asked = probe("generate", {"text": SECRET}, {"prefix_chars": 5})
    reason = compare(asked, Outcome(text="other " + SECRET))
    assert reason is not None
    assert "secret" not in reason
    assert SECRET not in repr(asked)
    with pytest.raises(BundleError) as raised:
        work_for(Probe("p1", "generate", {"chat": [{"role": SECRET}]}, {}, {}))
    assert "secret" not in str(raised.value)


def token(text: str, lead: float) -> text_pb2.TokenLogprob:
    other = text_pb2.Alternative(token=b"other", logprob=-1.0 - lead)
    own = text_pb2.Alternative(token=text.encode(), logprob=-1.0)
    return text_pb2.TokenLogprob(token=text.encode(), logprob=-1.0, alternatives=[own, other])


def test_a_text_is_pinned_down_as_far_as_its_tokens_led() -> None:
    tokens = (token("ab", 3.0), token("cd", 0.9), token("ef", 0.1), token("gh", 5.0))
    assert sure_chars(Outcome(text="abcdefgh", tokens=tokens)) == 4


@pytest.mark.parametrize("task", ["generate", "embed", "classify", "tensor"])
def test_what_is_recorded_passes_on_a_fresh_worker(tmp_path: Path, task: str) -> None:
    bundle = tiny_bundle(tmp_path, task).path
    written = record(bundle, WorkerConfig(threads=1))
    assert parse_probes((bundle / "probes.jsonl").read_bytes()) == written

    async def again() -> None:
        with open_unsigned(bundle) as opened:
            worker = await WorkerProcess.start(opened, WorkerConfig(threads=1))
            try:
                report = await run_probes(worker, written, timeout_seconds=60)
            finally:
                await worker.kill()
        assert report.failures == ()
        assert report.passed == len(written) > 0

    asyncio.run(again())
