"""Messages that never end, connections without number, refusals without end."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from tests.support.appliance import started, until
from tests.support.raw_http2 import RawConnection

EMBED = "casemate.v1.TextService/Embed"
GENERATE = "casemate.v1.TextService/Generate"
MESSAGE = 512 << 10
# What flow control lets into a stream that nobody reads, and the connection's own window.
UNREAD = 64 << 10


@pytest.mark.parametrize("method", [EMBED, GENERATE])
async def test_unfinished_messages_take_bounded_memory(tmp_path, method):
    limits: dict[str, Any] = {"max_message_bytes": MESSAGE, "max_streams_per_connection": 4}
    async with started(tmp_path / "domain", **limits) as front:
        identity, port = front.identity("camera-1"), front.appliance.address.port

        def flood() -> RawConnection:
            connection = RawConnection(port, identity)
            for _ in range(connection.max_streams):
                connection.begin(method, MESSAGE - 1)
            connection.push(MESSAGE - 10, 0.5)
            return connection

        with ExitStack() as stack:
            floods = [stack.enter_context(await asyncio.to_thread(flood)) for _ in range(3)]
            assert [f.max_streams for f in floods] == [4, 4, 4]
            # One principal has four messages on the way; the rest waits with their sender.
            assert sum(f.sent for f in floods) <= 4 * MESSAGE + 12 * UNREAD
            await until(lambda: len(front.appliance.pipeline.open) == 12)
        await until(lambda: not front.appliance.pipeline.open)


async def test_nothing_is_received_from_a_revoked_peer(tmp_path):
    async with started(tmp_path / "domain", max_message_bytes=MESSAGE) as front:
        identity, port = front.identity("thief"), front.appliance.address.port
        connection = await asyncio.to_thread(RawConnection, port, identity)
        with connection:
            front.domain.revoke("thief")
            await until(lambda: _is_revoked(front, identity))
            for _ in range(8):
                connection.begin(EMBED, MESSAGE - 1)
            await asyncio.to_thread(connection.push, MESSAGE - 10, 0.5)
            assert connection.ended == set(range(1, 16, 2))
            assert connection.sent <= 8 * UNREAD


def _is_revoked(front, identity) -> bool:
    from security.identity.peer import PeerRefused

    try:
        front.appliance.verifier.verify((identity / "client.crt").read_bytes())
    except PeerRefused:
        return True
    return False


async def test_a_message_that_does_not_arrive_is_given_up(tmp_path):
    async with started(tmp_path / "domain", max_receive_seconds=0.2) as front:
        identity, port = front.identity("camera-1"), front.appliance.address.port
        with await asyncio.to_thread(RawConnection, port, identity) as connection:
            number = connection.begin(EMBED, 1000)
            while number not in connection.ended:
                assert await asyncio.to_thread(connection.wait, 5.0)
        data = front.appliance.log.entries(0, front.appliance.log.size)
        assert b"REQUEST_NOT_RECEIVED" in data


async def test_connections_are_limited_and_those_that_are_open_go_on(tmp_path):
    async with started(tmp_path / "domain", max_connections=2) as front:
        identity, port = front.identity("camera-1"), front.appliance.address.port
        service = text_pb2_grpc.TextServiceStub(front.channel("camera-2"))
        request = text_pb2.GenerateRequest(model="tiny-generate", prompt="hello")
        assert [m async for m in service.Generate(request)]
        with await asyncio.to_thread(RawConnection, port, identity):
            with pytest.raises(OSError):
                await asyncio.to_thread(RawConnection, port, identity)
            assert [m async for m in service.Generate(request)]
