"""A call of many texts takes a few places of the model's queue at a time."""

from __future__ import annotations

import asyncio

import pytest

from casemate.pb.inference import inference_pb2_grpc
from runtime.errors import FailureReason, WorkFailed
from runtime.front.services.infer_generate import Places
from tests.support.appliance import Running, refused, text_tensor, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXTS = (b"one", b"two", b"three", b"four")


def stub(front: Running, *who: str) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    return inference_pb2_grpc.GRPCInferenceServiceStub(front.channel(*who))


@pytest.fixture
def host(front: Running):
    host = front.hosts["tiny-generate"]
    host.submitted.clear()
    yield host
    vars(host).pop("places_per_call", None)
    vars(host).pop("answer", None)
    host.resume()


async def prompts_after(host, count: int) -> list[str]:
    """Return what was submitted once `count` were, and nothing more comes."""
    await until(lambda: len(host.submitted) >= count)
    for _ in range(20):
        await asyncio.sleep(0)
    return [work.generate.prompt for work in host.submitted]


async def test_a_call_submits_the_next_text_as_one_ends(front: Running, host):
    host.places_per_call = 2
    host.paused = True
    call = stub(front).ModelInfer(text_tensor("tiny-generate", *TEXTS))
    assert await prompts_after(host, 2) == ["one", "two"]
    host.resume()
    raw = (await call).raw_output_contents[0]
    assert raw == b"".join(len(text).to_bytes(4, "little") + text for text in TEXTS)
    assert len(host.submitted) == 4


async def test_each_text_counts_against_the_roles_concurrency(front: Running, host):
    host.paused = True
    call = stub(front, "lonely", "single").ModelInfer(text_tensor("tiny-generate", *TEXTS))
    assert await prompts_after(host, 1) == ["one"]
    host.resume()
    await call
    assert len(host.submitted) == 4


async def test_when_one_text_fails_no_other_is_submitted(front: Running, host):
    def fail(work):
        raise WorkFailed(FailureReason.CAPACITY)

    host.places_per_call = 1
    host.answer = fail
    refusal = await refused(stub(front).ModelInfer(text_tensor("tiny-generate", *TEXTS)))
    assert refusal.reason == "MODEL_BUSY"
    assert len(host.submitted) == 1


async def test_a_call_that_is_given_up_submits_nothing_more(front: Running, host):
    host.places_per_call = 1
    host.paused = True
    call = stub(front).ModelInfer(text_tensor("tiny-generate", *TEXTS))
    await prompts_after(host, 1)
    call.cancel()
    await until(lambda: host.cancelled)
    await until(lambda: not front.appliance.pipeline.open)
    assert len(host.submitted) == 1


async def test_calls_of_one_principal_share_its_places_and_others_have_their_own():
    places = Places()
    with places.of("a", 1) as first, places.of("a", 1) as second, places.of("b", 1) as other:
        assert first is second
        await first.acquire()
        assert second.locked()
        assert not other.locked()
    with places.of("a", 1) as fresh:
        assert fresh is not first
