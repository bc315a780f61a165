from casemate.pb.casemate.v1 import text_pb2 as _text_pb2
from casemate.pb.inference import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_INVALID_ARGUMENT: _ClassVar[FailureReason]
    FAILURE_REASON_CAPACITY: _ClassVar[FailureReason]
    FAILURE_REASON_DEADLINE: _ClassVar[FailureReason]
    FAILURE_REASON_CANCELLED: _ClassVar[FailureReason]
    FAILURE_REASON_INTERNAL: _ClassVar[FailureReason]
    FAILURE_REASON_UNSUPPORTED: _ClassVar[FailureReason]
    FAILURE_REASON_LOAD: _ClassVar[FailureReason]
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_INVALID_ARGUMENT: FailureReason
FAILURE_REASON_CAPACITY: FailureReason
FAILURE_REASON_DEADLINE: FailureReason
FAILURE_REASON_CANCELLED: FailureReason
FAILURE_REASON_INTERNAL: FailureReason
FAILURE_REASON_UNSUPPORTED: FailureReason
FAILURE_REASON_LOAD: FailureReason

class LoadModel(_message.Message):
    __slots__ = ("bundle_json", "variant", "descriptors", "threads", "kv_tokens", "max_sequences", "step_tokens", "max_batch", "max_queue_delay_us")
    class DescriptorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BUNDLE_JSON_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_DELAY_US_FIELD_NUMBER: _ClassVar[int]
    bundle_json: bytes
    variant: str
    descriptors: _containers.ScalarMap[str, int]
    threads: int
    kv_tokens: int
    max_sequences: int
    step_tokens: int
    max_batch: int
    max_queue_delay_us: int
    def __init__(self, bundle_json: _Optional[bytes] = ..., variant: _Optional[str] = ..., descriptors: _Optional[_Mapping[str, int]] = ..., threads: _Optional[int] = ..., kv_tokens: _Optional[int] = ..., max_sequences: _Optional[int] = ..., step_tokens: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_queue_delay_us: _Optional[int] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("id", "tenant", "deadline_ms", "generate", "score", "embed", "classify", "infer")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    INFER_FIELD_NUMBER: _ClassVar[int]
    id: int
    tenant: bytes
    deadline_ms: int
    generate: _text_pb2.GenerateRequest
    score: _text_pb2.ScoreRequest
    embed: _text_pb2.EmbedRequest
    classify: _text_pb2.ClassifyRequest
    infer: _inference_pb2.ModelInferRequest
    def __init__(self, id: _Optional[int] = ..., tenant: _Optional[bytes] = ..., deadline_ms: _Optional[int] = ..., generate: _Optional[_Union[_text_pb2.GenerateRequest, _Mapping]] = ..., score: _Optional[_Union[_text_pb2.ScoreRequest, _Mapping]] = ..., embed: _Optional[_Union[_text_pb2.EmbedRequest, _Mapping]] = ..., classify: _Optional[_Union[_text_pb2.ClassifyRequest, _Mapping]] = ..., infer: _Optional[_Union[_inference_pb2.ModelInferRequest, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("load", "submit", "cancel", "drain", "ping")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    load: LoadModel
    submit: Submit
    cancel: Cancel
    drain: Drain
    ping: Ping
    def __init__(self, load: _Optional[_Union[LoadModel, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("sandbox", "context_tokens", "max_sequences", "vocabulary", "embedding_dim", "inputs", "outputs")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIM_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    sandbox: _containers.RepeatedScalarFieldContainer[str]
    context_tokens: int
    max_sequences: int
    vocabulary: int
    embedding_dim: int
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, sandbox: _Optional[_Iterable[str]] = ..., context_tokens: _Optional[int] = ..., max_sequences: _Optional[int] = ..., vocabulary: _Optional[int] = ..., embedding_dim: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("id", "reason", "field", "detail")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    id: int
    reason: FailureReason
    field: str
    detail: str
    def __init__(self, id: _Optional[int] = ..., reason: _Optional[_Union[FailureReason, str]] = ..., field: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class GenerateDelta(_message.Message):
    __slots__ = ("id", "delta")
    ID_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    id: int
    delta: _text_pb2.Delta
    def __init__(self, id: _Optional[int] = ..., delta: _Optional[_Union[_text_pb2.Delta, _Mapping]] = ...) -> None: ...

class GenerateDone(_message.Message):
    __slots__ = ("finish_reason",)
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    finish_reason: _text_pb2.FinishReason
    def __init__(self, finish_reason: _Optional[_Union[_text_pb2.FinishReason, str]] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("id", "usage", "queue_ms", "generate", "score", "embed", "classify", "infer")
    ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    INFER_FIELD_NUMBER: _ClassVar[int]
    id: int
    usage: _text_pb2.Usage
    queue_ms: int
    generate: GenerateDone
    score: _text_pb2.ScoreResponse
    embed: _text_pb2.EmbedResponse
    classify: _text_pb2.ClassifyResponse
    infer: _inference_pb2.ModelInferResponse
    def __init__(self, id: _Optional[int] = ..., usage: _Optional[_Union[_text_pb2.Usage, _Mapping]] = ..., queue_ms: _Optional[int] = ..., generate: _Optional[_Union[GenerateDone, _Mapping]] = ..., score: _Optional[_Union[_text_pb2.ScoreResponse, _Mapping]] = ..., embed: _Optional[_Union[_text_pb2.EmbedResponse, _Mapping]] = ..., classify: _Optional[_Union[_text_pb2.ClassifyResponse, _Mapping]] = ..., infer: _Optional[_Union[_inference_pb2.ModelInferResponse, _Mapping]] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce", "running", "waiting", "kv_tokens_used", "kv_tokens_total", "prefix_queries", "prefix_hits", "prompt_tokens", "generation_tokens")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PREFIX_QUERIES_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HITS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    running: int
    waiting: int
    kv_tokens_used: int
    kv_tokens_total: int
    prefix_queries: int
    prefix_hits: int
    prompt_tokens: int
    generation_tokens: int
    def __init__(self, nonce: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_tokens_used: _Optional[int] = ..., kv_tokens_total: _Optional[int] = ..., prefix_queries: _Optional[int] = ..., prefix_hits: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., generation_tokens: _Optional[int] = ...) -> None: ...

class Drained(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("ready", "failed", "delta", "completed", "pong", "drained")
    READY_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    failed: Failed
    delta: GenerateDelta
    completed: Completed
    pong: Pong
    drained: Drained
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., delta: _Optional[_Union[GenerateDelta, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., drained: _Optional[_Union[Drained, _Mapping]] = ...) -> None: ...
