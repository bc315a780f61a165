"""AuditService: the log for those who check it.

Nothing of what it answers needs to be believed. Reading and signing run in a thread,
since both can touch the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from casemate.pb.casemate.v1 import audit_pb2
from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.front.spec import Handler
from runtime.front.validate import require_range
from security.audit.log import AuditLog
from security.errors import AuditError, UsageError

TILE_WIDTH = 256
MAX_TILE_LEVEL = 63
_MAX_NUMBER = (1 << 63) - 1


class _Read(Handler):
    # Fields of the request and the most each may be.
    bounds: tuple[tuple[str, int], ...] = ()

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def validate(self, call: Call) -> None:
        """Check the numbers' ranges."""
        for field, most in self.bounds:
            require_range(field, getattr(call.request, field), 0, most)

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer; what the log does not hold is OUT_OF_RANGE."""
        try:
            yield await asyncio.to_thread(self.read, call.request)
        except (AuditError, UsageError) as error:
            raise Refusal(
                grpc.StatusCode.OUT_OF_RANGE,
                "NOT_IN_LOG",
                "the log does not hold this",
                detail=str(error),
            ) from None

    def read(self, request: Any) -> Any:
        """Read from the log. Runs in a thread."""
        raise NotImplementedError

    def _head(self, size: int) -> tuple[int, bytes]:
        """Return the tree size to prove for, and the newest checkpoint."""
        checkpoint = self._log.checkpoint()
        # C2SP tlog-checkpoint: the size is the note's second line.
        return size or int(checkpoint.split(b"\n", 2)[1]), checkpoint


class GetCheckpoint(_Read):
    """The newest signed checkpoint."""

    def read(self, request: audit_pb2.GetCheckpointRequest) -> audit_pb2.GetCheckpointResponse:
        """Return the answer."""
        return audit_pb2.GetCheckpointResponse(checkpoint=self._log.checkpoint())


class GetInclusionProof(_Read):
    """That an entry is in a tree."""

    bounds = (("index", _MAX_NUMBER), ("tree_size", _MAX_NUMBER))

    def read(
        self, request: audit_pb2.GetInclusionProofRequest
    ) -> audit_pb2.GetInclusionProofResponse:
        """Return the answer."""
        size, checkpoint = self._head(request.tree_size)
        return audit_pb2.GetInclusionProofResponse(
            index=request.index,
            tree_size=size,
            hashes=self._log.prove_inclusion(request.index, size),
            checkpoint=checkpoint,
        )


class GetConsistencyProof(_Read):
    """That one tree continues another."""

    bounds = (("old_size", _MAX_NUMBER), ("new_size", _MAX_NUMBER))

    def read(
        self, request: audit_pb2.GetConsistencyProofRequest
    ) -> audit_pb2.GetConsistencyProofResponse:
        """Return the answer."""
        size, checkpoint = self._head(request.new_size)
        return audit_pb2.GetConsistencyProofResponse(
            old_size=request.old_size,
            new_size=size,
            hashes=self._log.prove_consistency(request.old_size, size),
            checkpoint=checkpoint,
        )


class GetTile(_Read):
    """A tile of hashes."""

    bounds = (("level", MAX_TILE_LEVEL), ("index", _MAX_NUMBER), ("width", TILE_WIDTH))

    def read(self, request: audit_pb2.GetTileRequest) -> audit_pb2.GetTileResponse:
        """Return the answer."""
        width = request.width or TILE_WIDTH
        return audit_pb2.GetTileResponse(tile=self._log.tile(request.level, request.index, width))


class GetEntries(_Read):
    """A bundle of entries."""

    bounds = (("index", _MAX_NUMBER), ("width", TILE_WIDTH))

    def read(self, request: audit_pb2.GetEntriesRequest) -> audit_pb2.GetEntriesResponse:
        """Return the answer."""
        width = request.width or TILE_WIDTH
        return audit_pb2.GetEntriesResponse(entries=self._log.entries(request.index, width))
