"""The front's end of the socket to a worker: bytes become messages, or the worker's end."""

from __future__ import annotations

import asyncio
from typing import Protocol

from google.protobuf.message import DecodeError

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import FrameError
from runtime.worker.framing import FrameBuffer


class Owner(Protocol):
    """What the bytes are for."""

    def doomed(self) -> bool:
        """Whether nothing more is to be read."""
        ...

    def on_message(self, message: worker_pb2.FromWorker, size: int) -> None:
        """Handle a message of `size` bytes."""
        ...

    def on_channel_closed(self) -> None:
        """Handle the end of the channel."""
        ...

    def kill_now(self, reason: str) -> None:
        """End the worker."""
        ...


class Channel(asyncio.Protocol):
    """Feeds the socket's bytes to the process object."""

    def __init__(self, owner: Owner, limit_bytes: int) -> None:
        self._owner = owner
        self._frames = FrameBuffer(limit_bytes)

    def data_received(self, data: bytes) -> None:
        """Hand over every message that is now whole."""
        if self._owner.doomed():
            return
        try:
            for payload in self._frames.feed(data):
                message = worker_pb2.FromWorker.FromString(payload)
                # What this side does not know, it must not pass on either.
                message.DiscardUnknownFields()
                self._owner.on_message(message, len(payload))
                if self._owner.doomed():
                    return
        except (FrameError, DecodeError):
            self._owner.kill_now("it broke the framing")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._owner.on_channel_closed()
