"""Protobuf to encoder values and back: embed and classify."""

from __future__ import annotations

import numpy as np

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.encoder import EncodeDone, EncodeRequest
from runtime.worker.convert import deadline_of


def encode_request(work: worker_pb2.Submit) -> EncodeRequest:
    """Return the engine's request for an embed or classify; raises InvalidRequest."""
    wire = work.embed if work.HasField("embed") else work.classify
    return EncodeRequest(work.id, tuple(wire.inputs), deadline_of(work))


def embed_message(event: EncodeDone) -> worker_pb2.FromWorker:
    """Return the result of an embed: one float32 vector per input."""
    embeddings = (
        text_pb2.Embedding(values=row, tokens=tokens)
        for row, tokens in zip(event.values.tolist(), event.tokens, strict=True)
    )
    return worker_pb2.FromWorker(
        completed=_completed(event, embed=text_pb2.EmbedResponse(embeddings=embeddings))
    )


def classify_message(event: EncodeDone, labels: tuple[str, ...]) -> worker_pb2.FromWorker:
    """Return the result of a classify: each input's labels, most likely first."""
    classifications = []
    for row in event.values:
        order = np.argsort(-row, kind="stable")
        scores = (text_pb2.LabelScore(label=labels[i], score=float(row[i])) for i in order)
        classifications.append(text_pb2.Classification(labels=scores))
    response = text_pb2.ClassifyResponse(classifications=classifications)
    return worker_pb2.FromWorker(completed=_completed(event, classify=response))


def _completed(
    event: EncodeDone,
    embed: text_pb2.EmbedResponse | None = None,
    classify: text_pb2.ClassifyResponse | None = None,
) -> worker_pb2.Completed:
    usage = text_pb2.Usage(prompt_tokens=sum(event.tokens))
    for response in (embed, classify):
        if response is not None:
            response.usage.CopyFrom(usage)
    return worker_pb2.Completed(
        id=event.id, usage=usage, queue_ms=event.queue_ms, embed=embed, classify=classify
    )
