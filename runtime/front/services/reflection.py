"""Server reflection (v1 and v1alpha, which are the same on the wire).

Answers from a pool of its own: our descriptors are in a private one (see
casemate.pb.pool), so the library's servicer, which reads the default pool, would
not find them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2

from runtime.front.call import Call
from runtime.front.errors import invalid
from runtime.front.spec import Handler, Malformed

_NOT_FOUND = 5
_UNIMPLEMENTED = 12
# A client walks one file at a time; nobody needs more in one call.
MAX_REQUESTS = 1000


def private_pool(files: Sequence[FileDescriptor]) -> DescriptorPool:
    """Return a pool with the files and all they import."""
    pool = DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)

    for file in files:
        add(file)
    return pool


class ServerReflection(Handler):
    """Answers each request of the stream in turn."""

    def __init__(self, services: Callable[[], Sequence[str]], pool: DescriptorPool) -> None:
        self._services = services
        self._pool = pool

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield one answer a request."""
        if call.requests is None:
            return
        count = 0
        async for request in call.requests:
            count += 1
            if isinstance(request, Malformed) or count > MAX_REQUESTS:
                raise invalid("request", "is no valid message, or one too many", "MALFORMED")
            yield self._answer(request)

    def _answer(self, request: Any) -> Any:
        response = reflection_pb2.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                names = [reflection_pb2.ServiceResponse(name=name) for name in self._services()]
                response.list_services_response.service.extend(names)
            elif kind == "file_by_filename":
                self._add_file(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                symbol = request.file_containing_symbol
                self._add_file(response, self._pool.FindFileContainingSymbol(symbol))
            else:
                response.error_response.error_code = _UNIMPLEMENTED
                response.error_response.error_message = "the schemas have no extensions"
        except KeyError:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = "not found"
        return response

    def _add_file(self, response: Any, file: FileDescriptor) -> None:
        seen: dict[str, bytes] = {}

        def add(item: FileDescriptor) -> None:
            if item.name not in seen:
                seen[item.name] = item.serialized_pb
                for dependency in item.dependencies:
                    add(dependency)

        add(file)
        response.file_descriptor_response.file_descriptor_proto.extend(seen.values())
