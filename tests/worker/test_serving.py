"""Real workers: what they answer, for every task, through the sandbox."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2
from runtime.errors import FailureReason, WorkFailed
from runtime.worker.host import ModelHost
from tests.support.bundles import DIM, LABELS, SignedBundle
from tests.worker.conftest import QUICK


def generate(prompt: str = "the cat", **fields: object) -> worker_pb2.Submit:
    request = text_pb2.GenerateRequest(prompt=prompt, max_tokens=8)
    request.MergeFrom(text_pb2.GenerateRequest(**fields))  # type: ignore[arg-type]
    return worker_pb2.Submit(tenant=b"t", generate=request)


async def test_ready_tells_the_model_and_every_layer(text_host: ModelHost) -> None:
    ready = text_host.ready_message
    assert ready is not None
    assert ready.context_tokens == 256
    assert ready.max_sequences == QUICK.max_sequences
    assert ready.vocabulary > 256
    assert set(ready.sandbox) >= {"session", "rlimits", "no_new_privs", "landlock", "seccomp"}


async def test_generate_streams_and_completes(text_host: ModelHost) -> None:
    messages = [message async for message in text_host.submit(generate())]
    *deltas, last = messages
    assert all(message.HasField("delta") for message in deltas)
    assert last.completed.usage.completion_tokens == 8
    assert last.completed.generate.finish_reason == text_pb2.FINISH_REASON_LENGTH


async def test_chat_is_rendered_with_the_signed_template(text_host: ModelHost) -> None:
    chat = text_pb2.Chat(messages=[text_pb2.ChatMessage(role="user", content="hi")])
    work = worker_pb2.Submit(generate=text_pb2.GenerateRequest(chat=chat, max_tokens=2))
    assert (await text_host.submit(work).result()).usage.prompt_tokens > 2


async def test_logprobs_come_with_alternatives(text_host: ModelHost) -> None:
    work = generate(logprobs=True, top_logprobs=2)
    tokens = [
        token async for message in text_host.submit(work) for token in message.delta.delta.logprobs
    ]
    assert tokens
    assert all(token.logprob <= 0 and len(token.alternatives) == 2 for token in tokens)


async def test_requests_run_together(text_host: ModelHost) -> None:
    streams = [text_host.submit(generate(f"the {word}")) for word in ("cat", "dog", "king")]
    results = await asyncio.gather(*(stream.result() for stream in streams))
    assert [result.usage.completion_tokens for result in results] == [8, 8, 8]


async def test_score_gives_a_logprob_per_token(text_host: ModelHost) -> None:
    work = worker_pb2.Submit(score=text_pb2.ScoreRequest(texts=["the cat", "a"]))
    response = (await text_host.submit(work).result()).score
    assert len(response.scores) == 2
    first = response.scores[0]
    assert first.logprob == pytest.approx(sum(token.logprob for token in first.tokens), rel=1e-5)


BAD_REQUESTS = {
    "max_tokens": generate(max_tokens=100_000),
    "prompt": generate("x" * 2000),
    "sampling.temperature": generate(sampling=text_pb2.Sampling(temperature=3.0)),
    "sampling.top_p": generate(sampling=text_pb2.Sampling(top_p=math.nan)),
    "top_logprobs": generate(top_logprobs=2),
    "stop": generate(stop=[str(number) for number in range(9)]),
}


@pytest.mark.parametrize("field", BAD_REQUESTS)
async def test_a_bad_request_fails_alone_and_names_its_field(
    text_host: ModelHost, field: str
) -> None:
    good = text_host.submit(generate())
    work = worker_pb2.Submit()
    work.CopyFrom(BAD_REQUESTS[field])
    with pytest.raises(WorkFailed) as caught:
        await text_host.submit(work).result()
    assert caught.value.reason is FailureReason.INVALID_ARGUMENT
    assert caught.value.field == field
    assert (await good.result()).usage.completion_tokens == 8


async def test_work_of_another_task_is_unsupported(text_host: ModelHost) -> None:
    work = worker_pb2.Submit(embed=text_pb2.EmbedRequest(inputs=["the cat"]))
    with pytest.raises(WorkFailed) as caught:
        await text_host.submit(work).result()
    assert caught.value.reason is FailureReason.UNSUPPORTED


async def test_a_passed_deadline_is_not_computed(text_host: ModelHost) -> None:
    work = generate(max_tokens=200)
    work.deadline_ms = 1
    with pytest.raises(WorkFailed) as caught:
        await text_host.submit(work).result()
    assert caught.value.reason is FailureReason.DEADLINE


async def test_a_cancel_reaches_the_worker(text_host: ModelHost) -> None:
    stream = text_host.submit(generate(max_tokens=200))
    await anext(stream)
    stream.cancel()
    with pytest.raises(WorkFailed) as caught:
        await anext(stream)
    assert caught.value.reason is FailureReason.CANCELLED
    async with asyncio.timeout(5):
        while text_host.in_flight:
            # Every other request's end is a moment at which the worker has moved on.
            await text_host.submit(generate(max_tokens=1)).result()


async def test_embeddings_are_unit_vectors_whatever_the_batch(
    bundles: dict[str, SignedBundle],
) -> None:
    host = ModelHost(bundles["embed"].open(), QUICK)
    await host.start()
    texts = ["the cat", "a dog in the house", "king", "the river bank is good"]
    together = worker_pb2.Submit(embed=text_pb2.EmbedRequest(inputs=texts))
    response = (await host.submit(together).result()).embed
    alone = [
        (
            await host.submit(
                worker_pb2.Submit(embed=text_pb2.EmbedRequest(inputs=[text]))
            ).result()
        ).embed.embeddings[0]
        for text in texts
    ]
    await host.close()
    vectors = np.array([list(item.values) for item in response.embeddings])
    assert vectors.shape == (4, DIM)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors == pytest.approx(np.array([list(item.values) for item in alone]), abs=1e-5)
    assert response.usage.prompt_tokens == sum(item.tokens for item in response.embeddings)


async def test_an_input_beyond_the_limit_is_named_not_cut(
    bundles: dict[str, SignedBundle],
) -> None:
    host = ModelHost(bundles["embed"].open(), QUICK)
    await host.start()
    work = worker_pb2.Submit(embed=text_pb2.EmbedRequest(inputs=["ok", "the cat " * 100]))
    with pytest.raises(WorkFailed) as caught:
        await host.submit(work).result()
    await host.close()
    assert caught.value.field == "inputs[1]"
    assert caught.value.reason is FailureReason.INVALID_ARGUMENT


async def test_classify_gives_probabilities_most_likely_first(
    bundles: dict[str, SignedBundle],
) -> None:
    host = ModelHost(bundles["classify"].open(), QUICK)
    await host.start()
    work = worker_pb2.Submit(classify=text_pb2.ClassifyRequest(inputs=["good", "bad dog"]))
    response = (await host.submit(work).result()).classify
    await host.close()
    for item in response.classifications:
        scores = [label.score for label in item.labels]
        assert {label.label for label in item.labels} == set(LABELS)
        assert sum(scores) == pytest.approx(1.0, abs=1e-5)
        assert scores == sorted(scores, reverse=True)


async def test_tensors_raw_and_typed_give_the_same(bundles: dict[str, SignedBundle]) -> None:
    host = ModelHost(bundles["tensor"].open(), QUICK)
    await host.start()
    values = np.linspace(-1, 1, 8, dtype=np.float32)
    results = []
    for raw in (False, True):
        infer = inference_pb2.ModelInferRequest()
        tensor = infer.inputs.add(name="x", datatype="FP32", shape=[2, 4])
        if raw:
            infer.raw_input_contents.append(values.tobytes())
        else:
            tensor.contents.fp32_contents.extend(values.tolist())
        response = (await host.submit(worker_pb2.Submit(infer=infer)).result()).infer
        assert list(response.outputs[0].shape) == [2, 3]
        results.append(response.raw_output_contents[0])
    ready = host.ready_message
    await host.close()
    assert results[0] == results[1]
    assert ready is not None
    assert [list(spec.shape) for spec in ready.inputs] == [[-1, 4]]


async def test_a_damaged_model_fails_to_load_and_says_so(
    bundles: dict[str, SignedBundle],
) -> None:
    """The native parser's refusal is a load failure, and the process is gone."""
    from dataclasses import replace

    from runtime.errors import WorkerError

    bundle = bundles["tensor"].open()
    files = dict(bundle.files)
    name = bundle.manifest.variants[0].file
    files[name] = replace(files[name], fd=files["bundle.json"].fd)
    broken = replace(bundle, files=files)
    with pytest.raises(WorkerError, match="refused the graph") as caught:
        await ModelHost(broken, QUICK).start()
    assert caught.value.reason is FailureReason.LOAD
