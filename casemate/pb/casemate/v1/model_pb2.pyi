from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_STAGED: _ClassVar[VersionState]
    VERSION_STATE_PROBING: _ClassVar[VersionState]
    VERSION_STATE_LIVE: _ClassVar[VersionState]
    VERSION_STATE_PREVIOUS: _ClassVar[VersionState]
    VERSION_STATE_RETIRED: _ClassVar[VersionState]
    VERSION_STATE_REVOKED: _ClassVar[VersionState]
    VERSION_STATE_FAILED: _ClassVar[VersionState]
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_STAGED: VersionState
VERSION_STATE_PROBING: VersionState
VERSION_STATE_LIVE: VersionState
VERSION_STATE_PREVIOUS: VersionState
VERSION_STATE_RETIRED: VersionState
VERSION_STATE_REVOKED: VersionState
VERSION_STATE_FAILED: VersionState

class PrivacyClaim(_message.Message):
    __slots__ = ("epsilon", "delta", "unit", "contributions", "audited", "audited_epsilon", "audit_ceiling", "user_field")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    AUDITED_FIELD_NUMBER: _ClassVar[int]
    AUDITED_EPSILON_FIELD_NUMBER: _ClassVar[int]
    AUDIT_CEILING_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    unit: str
    contributions: int
    audited: bool
    audited_epsilon: float
    audit_ceiling: float
    user_field: str
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., unit: _Optional[str] = ..., contributions: _Optional[int] = ..., audited: _Optional[bool] = ..., audited_epsilon: _Optional[float] = ..., audit_ceiling: _Optional[float] = ..., user_field: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "bundle_digest", "security_epoch", "since_ms", "reason", "ready", "privacy", "variant")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SECURITY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: VersionState
    bundle_digest: str
    security_epoch: int
    since_ms: int
    reason: str
    ready: bool
    privacy: PrivacyClaim
    variant: str
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[VersionState, str]] = ..., bundle_digest: _Optional[str] = ..., security_epoch: _Optional[int] = ..., since_ms: _Optional[int] = ..., reason: _Optional[str] = ..., ready: _Optional[bool] = ..., privacy: _Optional[_Union[PrivacyClaim, _Mapping]] = ..., variant: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "task", "versions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    task: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, name: _Optional[str] = ..., task: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model", "bundle_json", "context_tokens", "max_sequences")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_JSON_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    model: Model
    bundle_json: bytes
    context_tokens: int
    max_sequences: int
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., bundle_json: _Optional[bytes] = ..., context_tokens: _Optional[int] = ..., max_sequences: _Optional[int] = ...) -> None: ...

class InstallBundleRequest(_message.Message):
    __slots__ = ("incoming", "stage_only")
    INCOMING_FIELD_NUMBER: _ClassVar[int]
    STAGE_ONLY_FIELD_NUMBER: _ClassVar[int]
    incoming: str
    stage_only: bool
    def __init__(self, incoming: _Optional[str] = ..., stage_only: _Optional[bool] = ...) -> None: ...

class InstallBundleResponse(_message.Message):
    __slots__ = ("model", "version", "probes_passed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBES_PASSED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: ModelVersion
    probes_passed: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[_Union[ModelVersion, _Mapping]] = ..., probes_passed: _Optional[int] = ...) -> None: ...

class PromoteVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class PromoteVersionResponse(_message.Message):
    __slots__ = ("version", "probes_passed")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBES_PASSED_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    probes_passed: int
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., probes_passed: _Optional[int] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class RollbackModelResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...
