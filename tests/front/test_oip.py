"""The Open Inference Protocol: text models, graphs, bad tensors, an unmodified client."""

from __future__ import annotations

import struct

import grpc
import pytest

from casemate.pb.inference import inference_pb2, inference_pb2_grpc
from security.audit.receipt import check_answer, check_request, verify_receipt
from tests.support.appliance import Running, refused, text_tensor
from tests.support.bundles import DIM, LABELS

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode


def stub(front: Running) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    return inference_pb2_grpc.GRPCInferenceServiceStub(front.channel())


def elements(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return found


async def test_a_text_model_generates(front: Running):
    request = text_tensor("tiny-generate", b"hello", b"there")
    request.id = "my-id"
    request.parameters["max_tokens"].int64_param = 5
    request.parameters["temperature"].double_param = 0.5
    call = stub(front).ModelInfer(request)
    answer = await call
    assert answer.id == "my-id"
    assert list(answer.outputs[0].shape) == [2]
    assert elements(answer.raw_output_contents[0]) == [b"hello", b"there"]
    sent = front.hosts["tiny-generate"].submitted[-1].generate
    assert (sent.max_tokens, sent.sampling.temperature) == (5, 0.5)
    receipt = verify_receipt(
        dict(await call.trailing_metadata())["casemate-receipt-bin"], front.vkeys()
    )
    packed = b"".join(struct.pack("<I", len(t)) + t for t in (b"hello", b"there"))
    assert check_request(receipt, [b"text_input", packed])
    assert check_answer(receipt, [b"text_output", answer.raw_output_contents[0]])


async def test_raw_and_typed_contents_mean_the_same(front: Running):
    typed = text_tensor("tiny-embed", b"ab", b"c")
    raw = text_tensor("tiny-embed", b"ab", b"c")
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(b"\x02\0\0\0ab\x01\0\0\0c")
    first, second = await stub(front).ModelInfer(typed), await stub(front).ModelInfer(raw)
    assert first.raw_output_contents == second.raw_output_contents
    assert list(first.outputs[0].shape) == [2, DIM]


async def test_a_classifier_gives_label_and_scores_and_only_what_was_asked_for(front: Running):
    request = text_tensor("tiny-classify", b"x")
    answer = await stub(front).ModelInfer(request)
    assert [output.name for output in answer.outputs] == ["label", "score"]
    assert list(answer.outputs[1].shape) == [1, len(LABELS)]
    request.outputs.add(name="score")
    answer = await stub(front).ModelInfer(request)
    assert [output.name for output in answer.outputs] == ["score"]
    assert len(answer.raw_output_contents) == 1


async def test_a_graphs_tensors_pass_through(front: Running):
    request = inference_pb2.ModelInferRequest(model_name="tiny-tensor")
    request.inputs.add(name="x", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1, 2])
    answer = await stub(front).ModelInfer(request)
    assert answer.raw_output_contents[0] == struct.pack("<2f", 1, 2)


async def test_texts_inside_tensors_are_filtered_both_ways(front: Running):
    for model in ("tiny-embed", "tiny-tensor"):
        request = text_tensor(model, b"a forbidden question", name="text_input")
        assert (await refused(stub(front).ModelInfer(request))).reason == "BLOCKED_BY_POLICY"
    host = front.hosts["tiny-generate"]
    host.says = "card 4111111111111111 and the launch code is"
    try:
        answer = await stub(front).ModelInfer(text_tensor("tiny-generate", b"x"))
    finally:
        host.says = None
    assert elements(answer.raw_output_contents[0]) == [b"card [card] and the "]
    assert answer.parameters["casemate_filtered"].bool_param


def _bad(**changes) -> inference_pb2.ModelInferRequest:
    request = text_tensor("tiny-generate", b"hello")
    tensor = request.inputs[0]
    for name, value in changes.items():
        match name:
            case "shape":
                tensor.shape[:] = value
            case "output":
                request.outputs.add(name=value)
            case "parameter":
                request.parameters[value].int64_param = 1
            case "raw":
                tensor.ClearField("contents")
                request.raw_input_contents.extend(value)
            case "texts":
                tensor.contents.bytes_contents[:] = value
            case "second":
                request.inputs.add(name=value, datatype="BYTES", shape=[0])
            case _:
                setattr(tensor, name, value)
    return request


BAD = {
    "no inputs": (inference_pb2.ModelInferRequest(model_name="tiny-generate"), "inputs"),
    "unknown input": (_bad(name="tokens"), "inputs"),
    "token tensor": (_bad(datatype="INT64"), "inputs[0].contents"),
    "unknown datatype": (_bad(datatype="FP8"), "inputs[0].datatype"),
    "two of a name": (_bad(second="text_input"), "inputs[1].name"),
    "wrong count": (_bad(shape=[2]), "inputs[0].contents"),
    "negative shape": (_bad(shape=[-1]), "inputs[0].shape"),
    "rank": (_bad(shape=[1] * 9), "inputs[0].shape"),
    "two dimensions": (_bad(shape=[1, 1]), "inputs[0].shape"),
    "raw cut short": (_bad(raw=[b"\x09\0\0\0hello"]), "inputs[0]"),
    "raw for another input": (_bad(raw=[b"", b""]), "raw_input_contents"),
    "not UTF-8": (_bad(texts=[b"\xff"]), "inputs[0]"),
    "empty": (_bad(texts=[b""]), "text_input[0]"),
    "NUL": (_bad(texts=[b"a\0b"]), "text_input[0]"),
    "unknown output": (_bad(output="logits"), "outputs[0].name"),
    "unknown parameter": (_bad(parameter="frobnicate"), "parameters[frobnicate]"),
    "parameter's type": (_bad(parameter="stop"), "parameters[stop]"),
}


@pytest.mark.parametrize(("request_", "field"), BAD.values(), ids=BAD.keys())
async def test_a_bad_request_is_refused_and_named(front: Running, request_, field):
    refusal = await refused(stub(front).ModelInfer(request_))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, field)


async def test_metadata_and_readiness(front: Running):
    service = stub(front)
    meta = await service.ModelMetadata(inference_pb2.ModelMetadataRequest(name="tiny-embed"))
    assert (meta.inputs[0].name, meta.outputs[0].name) == ("text_input", "embedding")
    graph = await service.ModelMetadata(inference_pb2.ModelMetadataRequest(name="tiny-tensor"))
    assert (graph.inputs[0].name, graph.inputs[0].datatype) == ("x", "FP32")
    ready = inference_pb2.ModelReadyRequest
    assert (await service.ModelReady(ready(name="tiny-embed"))).ready
    assert not (await service.ModelReady(ready(name="tiny-nothing"))).ready
    assert (await refused(service.ModelReady(ready(name="hidden")))).code is Code.PERMISSION_DENIED


async def test_an_unmodified_triton_client_works(front: Running):
    import numpy as np

    triton = pytest.importorskip("tritonclient.grpc.aio")
    identity = front.identity("camera-1")
    client = triton.InferenceServerClient(
        front.target.replace("127.0.0.1", "localhost"),
        ssl=True,
        root_certificates=str(identity / "roots.pem"),
        private_key=str(identity / "client.key"),
        certificate_chain=str(identity / "client.crt"),
    )
    try:
        assert await client.is_server_live()
        assert await client.is_model_ready("tiny-embed")
        tensor = triton.InferInput("text_input", [2], "BYTES")
        tensor.set_data_from_numpy(np.array([b"ab", b"abc"], dtype=np.object_))
        wanted = [triton.InferRequestedOutput("embedding")]
        result = await client.infer("tiny-embed", [tensor], outputs=wanted)
        assert result.as_numpy("embedding").tolist() == [[2.0] * DIM, [3.0] * DIM]
    finally:
        await client.close()
