"""A process that behaves to the supervisor as a taken-over worker might.

Started in a worker's place with the same arguments, after the name of a behaviour.
"""

from __future__ import annotations

import os
import sys
import time

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.worker.framing import HEADER, read_frame, write_frame

LIMIT = 1 << 26


def main() -> None:
    behaviour = sys.argv[1]
    (channel,) = (int(a.partition("=")[2]) for a in sys.argv if a.startswith("--channel="))

    def send(message: worker_pb2.FromWorker) -> None:
        write_frame(channel, message.SerializeToString(), LIMIT)

    read_frame(channel, LIMIT)
    if behaviour == "exits":
        sys.exit(5)
    if behaviour == "mute":
        time.sleep(600)
    send(worker_pb2.FromWorker(ready=worker_pb2.Ready(context_tokens=1)))
    while (payload := read_frame(channel, LIMIT)) is not None:
        message = worker_pb2.ToWorker.FromString(payload)
        if message.HasField("ping") and behaviour == "wrong pongs":
            for nonce in (0, message.ping.nonce + 1, 2**64 - 1):
                pong = worker_pb2.Pong(nonce=nonce, prompt_tokens=nonce)
                send(worker_pb2.FromWorker(pong=pong))
        elif message.HasField("ping"):
            send(worker_pb2.FromWorker(pong=worker_pb2.Pong(nonce=message.ping.nonce)))
        if not message.HasField("submit"):
            continue
        if behaviour == "oversized":
            os.write(channel, HEADER.pack(2**31))
        elif behaviour == "empty frame":
            os.write(channel, HEADER.pack(0))
        elif behaviour == "garbage":
            write_frame(channel, b"\xff" * 100, LIMIT)
        elif behaviour == "flood of strangers":
            for _ in range(5000):
                send(worker_pb2.FromWorker(delta=worker_pb2.GenerateDelta(id=99)))
        elif behaviour == "flood of pongs":
            for _ in range(5000):
                send(worker_pb2.FromWorker(pong=worker_pb2.Pong(nonce=0)))
        elif behaviour == "unknown field":
            done = worker_pb2.Completed(id=message.submit.id)
            done.embed.MergeFromString(b"\xfa\x7f\x06secret")
            send(worker_pb2.FromWorker(completed=done))
        elif behaviour == "strangers":
            for identifier in (0, 99, 2**64 - 1):
                delta = worker_pb2.GenerateDelta(id=identifier)
                send(worker_pb2.FromWorker(delta=delta))
                send(worker_pb2.FromWorker(completed=worker_pb2.Completed(id=identifier)))
                send(worker_pb2.FromWorker(failed=worker_pb2.Failed(id=identifier)))
            send(worker_pb2.FromWorker(ready=worker_pb2.Ready(context_tokens=9)))
            send(worker_pb2.FromWorker(drained=worker_pb2.Drained()))
            send(worker_pb2.FromWorker(completed=worker_pb2.Completed(id=message.submit.id)))


if __name__ == "__main__":
    main()
