"""Tensors of many elements are refused before they are cut, and few are cut once."""

from __future__ import annotations

import struct

import grpc
import pytest

from casemate.pb.inference import inference_pb2, inference_pb2_grpc
from runtime.front.errors import Refusal
from runtime.front.services import tensors
from tests.support.appliance import Running, refused, text_tensor

pytestmark = pytest.mark.asyncio(loop_scope="module")
MANY = 900_000


def stub(front: Running) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    return inference_pb2_grpc.GRPCInferenceServiceStub(front.channel())


def raw_request(model: str, shape: list[int], raw: bytes) -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=shape)
    request.raw_input_contents.append(raw)
    return request


@pytest.fixture
def cuts(monkeypatch) -> list[int]:
    """How many elements each cut of a BYTES tensor was asked for."""
    seen: list[int] = []
    original = tensors.split_elements

    def spy(raw: bytes, count: int) -> list[bytes] | None:
        seen.append(count)
        return original(raw, count)

    monkeypatch.setattr(tensors, "split_elements", spy)
    return seen


@pytest.mark.parametrize("model", ["tiny-generate", "tiny-embed", "tiny-tensor"])
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
async def test_a_million_empty_elements_are_refused_before_they_are_cut(
    front: Running, cuts: list[int], model: str, typed: bool
):
    request = raw_request(model, [MANY], bytes(4 * MANY))
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.bytes_contents.extend([b""] * MANY)
    refusal = await refused(stub(front).ModelInfer(request))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.field) == ("TOO_MANY_ITEMS", "inputs[0]")
    assert cuts == []


async def test_the_elements_of_all_inputs_count_together(front: Running):
    request = inference_pb2.ModelInferRequest(model_name="tiny-tensor")
    half = tensors.MAX_TEXT_ELEMENTS // 2
    for name, count in (("a", half), ("b", half), ("c", 1)):
        request.inputs.add(name=name, datatype="BYTES", shape=[count])
        request.raw_input_contents.append(bytes(4 * count))
    refusal = await refused(stub(front).ModelInfer(request))
    assert (refusal.reason, refusal.field) == ("TOO_MANY_ITEMS", "inputs[2]")


async def test_a_calls_texts_are_cut_once(front: Running, cuts: list[int]):
    await stub(front).ModelInfer(text_tensor("tiny-embed", b"ab", b"c"))
    assert cuts == [2]


async def test_a_redacted_text_reaches_the_model_in_its_place(front: Running):
    texts = (b"first", b"card 4111111111111111", b"last")
    request = text_tensor("tiny-embed", *texts)
    await stub(front).ModelInfer(request)
    sent = front.hosts["tiny-embed"].submitted[-1].embed
    assert list(sent.inputs) == ["first", "card [card]", "last"]


async def test_a_redacted_stop_string_and_text_keep_their_places(front: Running):
    request = text_tensor("tiny-generate", b"4111111111111111")
    request.parameters["stop"].string_param = "4111111111111112"
    await stub(front).ModelInfer(request)
    sent = front.hosts["tiny-generate"].submitted[-1].generate
    assert (sent.prompt, list(sent.stop)) == ("[card]", ["[card]"])


@pytest.mark.parametrize(
    ("shape", "raw"),
    [
        ([2], b"\x01\0\0\0a"),
        ([1], b"\x01\0\0\0a" * 2),
        ([1], b"\x01\0\0"),
        ([1], b"\x09\0\0\0a"),
        ([], b""),
    ],
    ids=["too few", "too many", "half a length", "cut short", "a scalar without a value"],
)
async def test_elements_must_fill_the_shape(shape: list[int], raw: bytes):
    with pytest.raises(Refusal) as caught:
        tensors.read_inputs(raw_request("m", shape, raw), 10)
    assert (caught.value.reason, caught.value.field) == ("WRONG_SHAPE", "inputs[0]")


async def test_too_many_numbers_in_typed_contents_are_refused(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_TYPED_ELEMENTS", 3)
    request = inference_pb2.ModelInferRequest()
    request.inputs.add(name="x", datatype="BOOL", shape=[4]).contents.bool_contents.extend(
        [True] * 4
    )
    with pytest.raises(Refusal, match="TOO_MANY_ITEMS"):
        tensors.read_inputs(request, 10)


async def test_too_many_outputs_asked_for_are_refused():
    request = raw_request("m", [1], struct.pack("<I", 0))
    for _ in range(tensors.MAX_INPUTS + 1):
        request.outputs.add(name="text_output")
    with pytest.raises(Refusal, match="TOO_MANY_ITEMS") as caught:
        tensors.read_inputs(request, 10)
    assert caught.value.field == "outputs"
