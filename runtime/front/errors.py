"""What a refused call looks like: one exception inside, one status on the wire.

On the wire: a status code, a fixed public message, `google.rpc.ErrorInfo` with a
stable reason, `BadRequest` naming the field at fault, and `RetryInfo` where trying
again can help. Inside: a detail for the local log. Invariant: neither holds text of
a request or an answer; messages are made from field names, limits and counts.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from runtime.errors import FailureReason, NoVariant, WorkerGone, WorkFailed
from runtime.front.failures import known_field, own_words
from runtime.models.errors import (
    CatalogBusy,
    ModelExpired,
    ModelNotAdmitted,
    ModelNotReady,
    NotPossible,
    ProbesFailed,
    UnknownModel,
    UnknownVersion,
)
from runtime.store.errors import StoreError
from security.errors import AuditError, BundleError, CasemateError, UsageError

DOMAIN = "casemate"
STATUS_DETAILS_KEY = "grpc-status-details-bin"


class Refusal(CasemateError):
    """A call that is not answered, or not to its end.

    Attributes:
        code: the gRPC status code.
        reason: stable and machine-readable, such as "UNKNOWN_MODEL".
        message: public and fixed for the reason; may name a field and a limit.
        field: the request's field at fault, such as "sampling.top_p", or "".
        retry_after_seconds: when trying again is worth it; None when it is not.
        detail: for the local log.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str = "",
        retry_after_seconds: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds
        self.detail = detail

    def status_details(self) -> bytes:
        """Return the serialized google.rpc.Status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        _add(status, error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN))
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message
            )
            _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(max(1, int(self.retry_after_seconds * 1000)))
            _add(status, retry)
        return bytes(status.SerializeToString())


def _add(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)


def invalid(field: str, problem: str, reason: str = "INVALID_FIELD") -> Refusal:
    """Return the refusal of a request whose `field` is wrong."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{field}: {problem}", field=field)


def exhausted(reason: str, message: str, retry_after_seconds: float) -> Refusal:
    """Return the refusal of a call there is no room for now."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason,
        message,
        retry_after_seconds=retry_after_seconds,
    )


def deadline_exceeded() -> Refusal:
    """Return the refusal of a call whose time is up."""
    return Refusal(
        grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "the deadline has passed"
    )


def cancelled() -> Refusal:
    """Return the end of a call that its client gave up."""
    return Refusal(grpc.StatusCode.CANCELLED, "CANCELLED", "the client cancelled the call")


def audit_unavailable(detail: str) -> Refusal:
    """Return the refusal of a call that could not be put on record."""
    return Refusal(
        grpc.StatusCode.UNAVAILABLE,
        "AUDIT_UNAVAILABLE",
        "the audit log takes no entries, so nothing is served",
        retry_after_seconds=5.0,
        detail=detail,
    )


def _internal(detail: str) -> Refusal:
    return Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "an internal error", detail=detail)


def broken_answer(what: str) -> Refusal:
    """Return the refusal of an answer that is not what a worker may send; `what` is ours."""
    return _internal(f"the worker sent {what}")


_WORK = {
    FailureReason.INVALID_ARGUMENT: (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        "the model cannot take this request",
    ),
    FailureReason.CAPACITY: (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "MODEL_BUSY",
        "the model has no room for this request now",
    ),
    FailureReason.DEADLINE: (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "the deadline has passed",
    ),
    FailureReason.CANCELLED: (grpc.StatusCode.CANCELLED, "CANCELLED", "the call was cancelled"),
    FailureReason.UNSUPPORTED: (
        grpc.StatusCode.UNIMPLEMENTED,
        "UNSUPPORTED",
        "the model does not support this request",
    ),
}


def _of_work(error: WorkFailed) -> Refusal:
    """Return the refusal for a failure; none of its words are the worker's."""
    field, problem = known_field(error.field), own_words(error.detail)
    detail = ": ".join(part for part in (error.reason.value, field, problem) if part)
    known = _WORK.get(error.reason)
    if known is None:
        return _internal(detail)
    code, reason, message = known
    if error.reason is FailureReason.INVALID_ARGUMENT and (field or problem):
        message = ": ".join(part for part in (field, problem or "the model cannot take it") if part)
    retry = 1.0 if error.reason is FailureReason.CAPACITY else None
    return Refusal(code, reason, message, field=field, retry_after_seconds=retry, detail=detail)


_STORE_FULL = frozenset({"disk-full", "io"})


def _of_catalog(error: CasemateError) -> Refusal:
    code = grpc.StatusCode
    known: Refusal
    match error:
        case UnknownModel():
            message = "no such model is served here"
            known = Refusal(code.NOT_FOUND, "UNKNOWN_MODEL", message, field="model")
        case UnknownVersion():
            message = "the model has no such version loaded"
            known = Refusal(code.NOT_FOUND, "UNKNOWN_VERSION", message, field="version")
        case ModelNotReady():
            known = _later("MODEL_NOT_READY", "the model is not ready", error.retry_after_ms)
        case ModelExpired():
            message = "the model's signed end of life has passed"
            known = Refusal(code.FAILED_PRECONDITION, "MODEL_EXPIRED", message, field="model")
        case ModelNotAdmitted():
            # Made of fixed words and the numbers of a claim; an operator has to see why.
            known = Refusal(code.FAILED_PRECONDITION, "NOT_ADMITTED", str(error), field="model")
        case NoVariant():
            # For operators: made of levels and features, which say what to compile for.
            known = Refusal(code.FAILED_PRECONDITION, "NO_VARIANT", str(error))
        case CatalogBusy():
            message = "another operation on this model is running"
            known = Refusal(code.ABORTED, "MODEL_BUSY", message, retry_after_seconds=2.0)
        case NotPossible():
            known = Refusal(code.FAILED_PRECONDITION, "NOT_POSSIBLE", str(error))
        case ProbesFailed():
            known = Refusal(code.FAILED_PRECONDITION, "PROBES_FAILED", str(error))
        case BundleError():
            # For operators, who need to know which file is at fault; no texts in it.
            known = Refusal(code.FAILED_PRECONDITION, f"BUNDLE_{_word(error.reason)}", str(error))
        case StoreError():
            # For operators: these messages name versions and files of the store.
            full = error.reason in _STORE_FULL
            status = code.RESOURCE_EXHAUSTED if full else code.FAILED_PRECONDITION
            known = Refusal(status, f"STORE_{_word(error.reason)}", str(error))
        case _:
            known = _internal(f"unexpected {type(error).__name__}")
    return known


def _word(reason: str) -> str:
    return reason.upper().replace("-", "_")


def _later(reason: str, message: str, retry_after_ms: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.UNAVAILABLE, reason, message, retry_after_seconds=retry_after_ms / 1000
    )


def as_refusal(error: Exception) -> Refusal:
    """Return what the caller is told of `error`; unknown errors become INTERNAL."""
    match error:
        case Refusal():
            known = error
        case WorkerGone():
            message = "the model's worker is not available"
            known = _later("WORKER_GONE", message, error.retry_after_ms)
        case WorkFailed():
            known = _of_work(error)
        case TimeoutError():
            known = deadline_exceeded()
        case AuditError():
            known = audit_unavailable(str(error))
        case UsageError():
            known = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", str(error))
        case CasemateError():
            known = _of_catalog(error)
        case _:
            # The type only: the text of a foreign exception could quote the request.
            known = _internal(f"unexpected {type(error).__name__}")
    return known
