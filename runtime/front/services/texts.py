"""TextService's unary methods: Score, Embed, Classify."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import grpc

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.config import LimitsConfig
from runtime.filters.rules import RuleSet
from runtime.front.call import Call
from runtime.front.errors import Refusal, broken_answer
from runtime.front.services.infer_answer import check_embeddings, check_labels
from runtime.front.services.work import completed, estimated_tokens, served_of, submit
from runtime.front.spec import Handler, OutFilter
from runtime.front.validate import require_texts, wrong_task


def pack_floats(values: Sequence[float]) -> bytes:
    """Return little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)


class _Texts(Handler):
    """A method that takes a list of texts and gives one message."""

    task = ""
    field = "inputs"
    work = ""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits

    def model(self, request: Any) -> tuple[str, str]:
        """Return the model that is named."""
        return request.model, request.version

    def validate(self, call: Call) -> None:
        """Check the task and every text."""
        manifest = served_of(call).manifest
        if manifest.task != self.task:
            raise wrong_task(manifest.task, self.task)
        texts = self.texts(call.request)
        limits = self._limits
        require_texts(self.field, texts, limits.max_inputs, limits.max_prompt_bytes)

    def estimate_tokens(self, call: Call) -> int:
        """Return the texts' estimate."""
        call.estimated_prompt_tokens = estimated_tokens(list(self.texts(call.request)))
        return call.estimated_prompt_tokens

    def texts(self, request: Any) -> Sequence[str]:
        """Return the texts in order."""
        texts: Sequence[str] = getattr(request, self.field)
        return texts

    def replace_texts(self, request: Any, texts: Sequence[str]) -> None:
        """Put the redacted texts in place."""
        getattr(request, self.field)[:] = texts

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the one answer."""
        stream = submit(call, worker_pb2.Submit(**{self.work: call.request}))
        done = await completed(call, stream)
        response = getattr(done, self.work)
        served = served_of(call)
        self._check_answer(call, response)
        response.usage.CopyFrom(call.usage)
        response.model, response.version = served.name, served.version
        response.bundle_digest, response.request_id = served.digest, call.request_id
        yield response

    def _check_answer(self, call: Call, response: Any) -> None:
        """Refuse an answer that does not belong to the request."""
        if len(self.results(response)) != len(self.texts(call.request)):
            raise broken_answer("results for another number of texts")

    def results(self, response: Any) -> Sequence[Any]:
        """Return the results, one a text."""
        raise NotImplementedError


class Embed(_Texts):
    """One vector per text."""

    task = "embed"
    work = "embed"

    def results(self, response: text_pb2.EmbedResponse) -> Sequence[Any]:
        """Return the vectors."""
        return response.embeddings

    def _check_answer(self, call: Call, response: text_pb2.EmbedResponse) -> None:
        """Refuse another number or size of vectors."""
        count = len(self.texts(call.request))
        check_embeddings(served_of(call).manifest, response.embeddings, count)

    def answer_parts(self, call: Call, message: Any) -> Iterable[bytes]:
        """Return each vector as little-endian float32."""
        if message is None:
            return ()
        return (pack_floats(embedding.values) for embedding in message.embeddings)


class Classify(_Texts):
    """Label probabilities per text."""

    task = "classify"
    work = "classify"

    def results(self, response: text_pb2.ClassifyResponse) -> Sequence[Any]:
        """Return the classifications."""
        return response.classifications

    def _check_answer(self, call: Call, response: text_pb2.ClassifyResponse) -> None:
        """Refuse labels that the manifest does not name: they would pass by the filters."""
        count = len(self.texts(call.request))
        check_labels(served_of(call).manifest, response.classifications, count)

    def answer_parts(self, call: Call, message: Any) -> Iterator[bytes]:
        """Yield for each text its labels, each followed by NUL and its score."""
        if message is None:
            return
        for result in message.classifications:
            yield b"".join(
                label.label.encode() + b"\0" + pack_floats([label.score]) for label in result.labels
            )


class Score(_Texts):
    """Log-probability of each token of each text."""

    task = "generate"
    work = "score"
    field = "texts"

    def results(self, response: text_pb2.ScoreResponse) -> Sequence[Any]:
        """Return the scores."""
        return response.scores

    def out_filter(self, call: Call) -> OutFilter:
        """Return the filter for the tokens, which repeat the texts."""
        return _ScoreFilter(call, call.rules_out) if call.rules_out else OutFilter()

    def answer_parts(self, call: Call, message: Any) -> Iterable[bytes]:
        """Return each text's log-probabilities as little-endian float32."""
        if message is None:
            return ()
        return (pack_floats([token.logprob for token in score.tokens]) for score in message.scores)


class _ScoreFilter(OutFilter):
    """Withholds the tokens of a text that a rule would change; the sum stays."""

    def __init__(self, call: Call, rules: RuleSet) -> None:
        self._call = call
        self._rules = rules

    def feed(self, message: text_pb2.ScoreResponse) -> Iterable[text_pb2.ScoreResponse]:
        """Return the message without what may not leave; raise PERMISSION_DENIED on a block."""
        verdicts = self._call.verdicts
        for score in message.scores:
            text = b"".join(token.token for token in score.tokens).decode(errors="replace")
            outcome = self._rules.apply(text)
            verdicts.extend(v for v in outcome.verdicts if v not in verdicts)
            if outcome.blocked:
                raise Refusal(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "BLOCKED_BY_POLICY",
                    "a rule of the policy refuses this answer",
                )
            if outcome.text != text:
                del score.tokens[:]
        return (message,)
