"""A client that speaks HTTP/2 by hand: streams that begin a message and never end it.

It keeps to flow control, so what it could send is what the server let in.
"""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_HEADERS, _ACK = 4, 1
_INITIAL_WINDOW_SETTING, _MAX_STREAMS_SETTING = 4, 3
_FRAME = 16_384


class RawConnection:
    """One connection. `sent` counts the bytes of messages that were let in."""

    def __init__(self, port: int, identity: Path, timeout_seconds: float = 5.0) -> None:
        context = ssl.create_default_context(cafile=str(identity / "roots.pem"))
        context.load_cert_chain(identity / "client.crt", identity / "client.key")
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._received = b""
        self._window, self._initial = 65_535, 65_535
        self._streams: dict[int, int] = {}
        self.max_streams = 0
        self.sent = 0
        self.ended: set[int] = set()
        self.closed = False
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        while not self.max_streams:
            self._take_frame()

    def begin(self, method: str, announced: int) -> int:
        """Open a stream and announce a message of so many bytes; return its number."""
        number = 2 * len(self._streams) + 1
        self._streams[number] = self._initial
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":path": f"/{method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(
            b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode()
            for k, v in fields.items()
        )
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, number, block))
        self._send(number, b"\0" + struct.pack(">I", announced))
        return number

    def push(self, size: int, quiet_seconds: float) -> None:
        """Send up to `size` bytes on every stream; stop when the server lets none in."""
        left = dict.fromkeys(self._streams, size)
        while not self.closed:
            open_streams = [n for n in left if n not in self.ended and left[n]]
            moved = 0
            for number in open_streams:
                room = min(left[number], _FRAME, self._window, self._streams[number])
                if room > 0:
                    self._send(number, bytes(room))
                    left[number] -= room
                    moved += room
            if not open_streams or (not moved and not self.wait(quiet_seconds)):
                return

    def wait(self, seconds: float) -> bool:
        """Take what the server sends; return whether there was anything in time."""
        before = self._socket.gettimeout()
        self._socket.settimeout(seconds)
        try:
            self._take_frame()
        except TimeoutError:
            return False
        except OSError:
            self.closed = True
        finally:
            self._socket.settimeout(before)
        return True

    def _send(self, number: int, data: bytes) -> None:
        self._window -= len(data)
        self._streams[number] -= len(data)
        self.sent += len(data)
        try:
            self._socket.sendall(_frame(_DATA, 0, number, data))
        except OSError:
            self.closed = True

    def _take_frame(self) -> None:
        head = self._exactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        number = int.from_bytes(head[5:], "big")
        payload = self._exactly(9 + length)[9:]
        self._received = self._received[9 + length :]
        if kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            gain = int.from_bytes(payload, "big")
            if not number:
                self._window += gain
            elif number in self._streams:
                self._streams[number] += gain
        elif kind == _RST or (kind == _HEADERS and flags & 1):
            self.ended.add(number)
        elif kind == _GOAWAY:
            self.closed = True

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            key, value = struct.unpack(">HI", payload[at : at + 6])
            if key == _INITIAL_WINDOW_SETTING:
                for number in self._streams:
                    self._streams[number] += value - self._initial
                self._initial = value
            elif key == _MAX_STREAMS_SETTING:
                self.max_streams = value
        self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionResetError
            self._received += data
        return self._received[:size]

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + payload
    )
