"""Runs the real engine over the in-memory backend and collects what it tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.engine.backend import TokenBackend
from runtime.engine.config import EngineConfig
from runtime.engine.generation import GenerationEngine
from runtime.engine.template import ChatTemplate
from runtime.engine.types import (
    Delta,
    Done,
    Event,
    Failure,
    GenerateRequest,
    SamplingParams,
    ScoreRequest,
    TextPrompt,
    TokenLogprob,
)

WAIT_SECONDS = 100
CHAT = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }}: {{ m.content | trim }}<end>"
    "{% endfor %}<turn>"
)


class Stream:
    """The events of one request."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Delta):
            self._ended.set()

    def wait(self) -> Event:
        if not self._ended.wait(WAIT_SECONDS):
            raise TimeoutError("the request did not end")
        return self.events[-1]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [one for event in self.events if isinstance(event, Delta) for one in event.logprobs]

    def done(self) -> Done:
        event = self.wait()
        assert isinstance(event, Done), event
        return event

    def failure(self) -> Failure:
        event = self.wait()
        assert isinstance(event, Failure), event
        return event


class Harness:
    """An engine, and requests with short names."""

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine
        self._next_id = 0

    def generate(
        self,
        prompt: str | TextPrompt,
        *,
        tenant: bytes = b"tenant",
        max_tokens: int = 8,
        request_id: int | None = None,
        stop: tuple[str, ...] = (),
        sampling: SamplingParams | None = None,
        deadline: float | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        fit_context: bool = False,
    ) -> Stream:
        self._next_id += 1
        stream = Stream()
        request = GenerateRequest(
            request_id if request_id is not None else self._next_id,
            tenant,
            TextPrompt(prompt) if isinstance(prompt, str) else prompt,
            sampling or SamplingParams(),
            max_tokens=max_tokens,
            stop=stop,
            deadline=deadline,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            fit_context=fit_context,
        )
        self.engine.submit(request, stream)
        return stream

    def score(self, *texts: str, tenant: bytes = b"tenant") -> Stream:
        self._next_id += 1
        stream = Stream()
        self.engine.submit(ScoreRequest(self._next_id, tenant, texts), stream)
        return stream


@contextmanager
def running(
    backend: TokenBackend,
    config: EngineConfig | None = None,
    template: ChatTemplate | None = None,
) -> Iterator[Harness]:
    """A started engine; closed at the end."""
    engine = GenerationEngine(backend, config or EngineConfig(), template)
    engine.start()
    try:
        yield Harness(engine)
    finally:
        engine.close()
