"""Serves a generation model: llama.cpp behind the GenerationEngine.

Imported before the sandbox closes: everything it will ever need is imported here.
"""

from __future__ import annotations

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.config import EngineConfig
from runtime.engine.errors import FailureReason, InvalidRequest, TemplateError
from runtime.engine.generation import GenerationEngine
from runtime.engine.llama import MAX_SEQUENCE_SLOTS, LlamaBackend, LlamaConfig
from runtime.engine.template import ChatTemplate
from runtime.engine.types import Done, EngineStats, Event, Failure
from runtime.worker import convert
from runtime.worker.service import Send, descriptor_path
from security.bundle.manifest import BundleManifest, Variant

# Without a figure from the operator the KV cache holds this many tokens, or the
# longest context if that is more: the memory it takes is known when a model is chosen.
_DEFAULT_KV_TOKENS = 16_384
# Slots beyond those of running requests keep prefixes for reuse.
_KEPT_SLOTS = 16


def warm_up_template() -> None:
    """Touch what is imported on first use: a sandboxed process can import nothing."""
    template = ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}{{ 1 / n }}")
    try:
        template.render([("user", "x")])
    except TemplateError:
        return


class TextService:
    """Generate and score."""

    def __init__(
        self,
        load: worker_pb2.LoadModel,
        manifest: BundleManifest,
        variant: Variant,
        send: Send,
        max_queue: int,
    ) -> None:
        """Load the model and start its engine; raises EngineError."""
        limits = manifest.limits
        sequences = load.max_sequences or limits.max_sequences
        config = EngineConfig(max_sequences=sequences, max_waiting=max_queue)
        backend = LlamaBackend(
            descriptor_path(load, variant.file),
            LlamaConfig(
                kv_tokens=load.kv_tokens or _kv_tokens(limits.context_tokens, sequences),
                context_tokens=limits.context_tokens,
                sequence_slots=min(sequences + _KEPT_SLOTS, MAX_SEQUENCE_SLOTS),
                step_tokens=load.step_tokens,
                max_rows=sequences + config.score_step_rows,
                threads=load.threads,
            ),
        )
        template = None
        if manifest.chat_template is not None:
            special = manifest.special_tokens
            template = ChatTemplate(manifest.chat_template, bos=special.bos, eos=special.eos)
        self._manifest = manifest
        self._backend = backend
        self._sequences = sequences
        self._send = send
        self._engine = GenerationEngine(backend, config, template)
        self._engine.start()

    def ready(self) -> worker_pb2.Ready:
        """Describe the model."""
        return worker_pb2.Ready(
            context_tokens=self._backend.context_tokens,
            max_sequences=self._sequences,
            vocabulary=self._backend.vocabulary_size,
        )

    def submit(self, work: worker_pb2.Submit) -> None:
        """Take a generate or a score."""
        try:
            match work.WhichOneof("work"):
                case "generate":
                    request = convert.generate_request(work, self._manifest)
                    self._engine.submit(request, self._emit_generate)
                case "score":
                    self._engine.submit(convert.score_request(work), self._emit_score)
                case _:
                    raise InvalidRequest(
                        "model", "the model generates text", FailureReason.UNSUPPORTED
                    )
        except InvalidRequest as error:
            failure = Failure(work.id, error.reason, error.field, str(error))
            self._send(convert.failure_message(failure))

    def _emit_generate(self, event: Event) -> None:
        if isinstance(event, Failure):
            self._send(convert.failure_message(event))
        else:
            self._send(convert.generate_message(event))

    def _emit_score(self, event: Event) -> None:
        if isinstance(event, Failure):
            self._send(convert.failure_message(event))
        elif isinstance(event, Done):
            self._send(convert.score_message(event))

    def cancel(self, request_id: int) -> None:
        """Give a request up."""
        self._engine.cancel(request_id)

    def stats(self) -> EngineStats:
        """Gauges for the heartbeat."""
        return self._engine.stats()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is at work."""
        return self._engine.alive

    def drain(self) -> None:
        """Finish every request that was taken; blocks."""
        self._engine.drain()


def _kv_tokens(context_tokens: int, sequences: int) -> int:
    return min(context_tokens * sequences, max(context_tokens, _DEFAULT_KV_TOKENS))
