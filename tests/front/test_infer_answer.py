"""Of a worker's tensors only what was checked leaves: a taken-over worker adds nothing."""

from __future__ import annotations

import struct

import grpc
import pytest

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2, inference_pb2_grpc
from runtime.front.errors import Refusal
from runtime.front.services.infer_answer import graph_answer
from runtime.front.services.tensors import MAX_TEXT_ELEMENTS
from tests.support.appliance import Running, refused, text_tensor
from tests.support.bundles import DIM, LABELS

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "a secret from the worker"
SPECS = [
    worker_pb2.TensorSpec(name="y", datatype="FP32", shape=[-1, 2]),
    worker_pb2.TensorSpec(name="t", datatype="BYTES", shape=[-1]),
]
REQUEST = inference_pb2.ModelInferRequest()
Output = tuple[str, str, list[int], bytes]
Y: Output = ("y", "FP32", [1, 2], bytes(8))
T: Output = ("t", "BYTES", [1], b"\x01\0\0\0a")


def answer_of(*outputs: Output) -> inference_pb2.ModelInferResponse:
    answer = inference_pb2.ModelInferResponse()
    for name, datatype, shape, raw in outputs:
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
        answer.raw_output_contents.append(raw)
    return answer


async def test_only_names_datatypes_shapes_and_bytes_are_taken():
    answer = answer_of(Y, T)
    answer.model_name = answer.id = SECRET
    answer.parameters["x"].string_param = SECRET
    answer.outputs[0].parameters["x"].string_param = SECRET
    answer.outputs[0].contents.bytes_contents.append(SECRET.encode())
    assert graph_answer(REQUEST, answer, SPECS) == answer_of(Y, T)


MANY = MAX_TEXT_ELEMENTS + 1
BAD = {
    "an unknown output": answer_of(Y, T, (SECRET, "FP32", [0], b"")),
    "an output twice": answer_of(Y, Y, T),
    "an output missing": answer_of(Y),
    "another datatype": answer_of(("y", "BYTES", [1, 2], bytes(8)), T),
    "another rank": answer_of(("y", "FP32", [2], bytes(8)), T),
    "another dimension": answer_of(("y", "FP32", [1, 3], bytes(12)), T),
    "a negative dimension": answer_of(("y", "FP32", [-1, 2], b""), T),
    "bytes too many": answer_of(("y", "FP32", [1, 2], bytes(12)), T),
    "elements cut short": answer_of(Y, ("t", "BYTES", [1], b"\x09\0\0\0a")),
    "too many elements": answer_of(Y, ("t", "BYTES", [MANY], bytes(4 * MANY))),
    "bytes of no output": inference_pb2.ModelInferResponse(raw_output_contents=[b"x"]),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_an_answer_that_does_not_fit_the_graph_is_internal(answer):
    with pytest.raises(Refusal) as caught:
        graph_answer(REQUEST, answer, SPECS)
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert SECRET not in caught.value.message + caught.value.detail + caught.value.field


async def test_an_output_that_was_not_asked_for_is_internal():
    request = inference_pb2.ModelInferRequest()
    request.outputs.add(name="y")
    assert graph_answer(request, answer_of(Y), SPECS) == answer_of(Y)
    with pytest.raises(Refusal, match="INTERNAL"):
        graph_answer(request, answer_of(Y, T), SPECS)


@pytest.fixture
def answering(front: Running):
    """Make the host of a task answer with a given result."""
    changed = []

    def answer(task: str, **result) -> None:
        host = front.hosts[f"tiny-{task}"]
        changed.append(host)
        done = worker_pb2.Completed(id=1, **result)
        messages = [worker_pb2.FromWorker(completed=done)]
        setattr(host, "answer", lambda work: messages)  # noqa: B010 - a method, for mypy

    yield answer
    for host in changed:
        vars(host).pop("answer", None)


async def test_a_graphs_answer_leaves_without_what_the_worker_added(front: Running, answering):
    answer = answer_of(("x", "FP32", [1], struct.pack("<f", 1)))
    answer.parameters["leak"].string_param = "the launch code is"
    answering("tensor", infer=answer)
    request = inference_pb2.ModelInferRequest(model_name="tiny-tensor")
    request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    got = await inference_pb2_grpc.GRPCInferenceServiceStub(front.channel()).ModelInfer(request)
    assert set(got.parameters) == {"casemate_request_id", "casemate_bundle_digest"}
    assert got.raw_output_contents == answer.raw_output_contents


def labelled(*labels: str) -> text_pb2.ClassifyResponse:
    scores = [text_pb2.LabelScore(label=label, score=0.5) for label in labels]
    return text_pb2.ClassifyResponse(classifications=[text_pb2.Classification(labels=scores)])


STRANGE = {
    "a label of its own": labelled(*LABELS[:-1], SECRET),
    "a label twice": labelled(*LABELS, LABELS[0]),
    "no label": labelled(),
}


@pytest.mark.parametrize("response", STRANGE.values(), ids=STRANGE.keys())
async def test_labels_must_be_the_manifests(front: Running, answering, response):
    answering("classify", classify=response)
    channel = front.channel()
    request = text_pb2.ClassifyRequest(model="tiny-classify", inputs=["x"])
    oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    for call in (
        text_pb2_grpc.TextServiceStub(channel).Classify(request),
        oip.ModelInfer(text_tensor("tiny-classify", b"x")),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.message) == (grpc.StatusCode.INTERNAL, "an internal error")


async def test_vectors_must_have_the_manifests_size(front: Running, answering):
    vectors = [text_pb2.Embedding(values=[0.0] * (DIM + 1))]
    answering("embed", embed=text_pb2.EmbedResponse(embeddings=vectors))
    oip = inference_pb2_grpc.GRPCInferenceServiceStub(front.channel())
    refusal = await refused(oip.ModelInfer(text_tensor("tiny-embed", b"x")))
    assert refusal.code is grpc.StatusCode.INTERNAL
