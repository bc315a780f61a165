"""Handing work to the worker of the version that a call holds."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import grpc

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.models.host import Stream
from runtime.models.loaded import ServedVersion

_TENANT_DOMAIN = b"casemate.tenant/1\0"
# A rough count before the tokenizer, which lives in the worker, has counted.
BYTES_PER_TOKEN = 4


def served_of(call: Call) -> ServedVersion:
    """Return the version that the call holds."""
    if call.served is None:
        raise Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "an internal error")
    return call.served


def tenant_of(call: Call) -> bytes:
    """Return what tells principals apart inside the worker, without naming them."""
    spiffe_id = call.principal.spiffe_id if call.principal else ""
    return hashlib.sha256(_TENANT_DOMAIN + spiffe_id.encode()).digest()[:16]


def submit(call: Call, work: worker_pb2.Submit) -> Stream:
    """Send work to the worker; it is cancelled when the call ends first."""
    work.tenant = tenant_of(call)
    if call.deadline is not None:
        left = call.deadline - asyncio.get_running_loop().time()
        work.deadline_ms = max(1, int(left * 1000))
    stream = served_of(call).host.submit(work)
    call.on_cancel(stream.cancel)
    call.works_begun += 1
    return stream


async def messages(call: Call, stream: Stream) -> AsyncIterator[worker_pb2.FromWorker]:
    """Yield the worker's messages; take the usage out of the last one."""
    async for message in stream:
        if message.HasField("completed"):
            completed = message.completed
            call.works_counted += 1
            call.usage.prompt_tokens += completed.usage.prompt_tokens
            call.usage.completion_tokens += completed.usage.completion_tokens
            call.usage.cached_tokens += completed.usage.cached_tokens
            call.queue_ms = completed.queue_ms
        elif message.HasField("delta"):
            call.deltas += 1
        yield message


async def completed(call: Call, stream: Stream) -> worker_pb2.Completed:
    """Wait for the result of unary work."""
    async for message in messages(call, stream):
        if message.HasField("completed"):
            return message.completed
    raise Refusal(
        grpc.StatusCode.INTERNAL, "INTERNAL", "an internal error", detail="work without a result"
    )


def estimated_tokens(texts: list[str]) -> int:
    """Return about how many tokens the texts have."""
    return sum(len(text) // BYTES_PER_TOKEN + 1 for text in texts)
