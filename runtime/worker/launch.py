"""Starting a worker process: what it inherits, which is next to nothing.

The child gets the socket pair's end and the sealed memory files of the bundle, an
environment made here from nothing, its own session, and no other descriptor. It is
started without fork handlers: `subprocess` takes vfork where no `preexec_fn` is given,
so gRPC's threads and locks in this process are never copied. Limits are applied by the
child itself before it parses anything.

Invariant: the child is watched through a pidfd, so a signal can never reach another
process that got the same number.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.worker.settings import WorkerConfig
from security.bundle.manifest import Variant, encode_manifest
from security.bundle.opening import VerifiedBundle

_SOCKET_BUFFER_BYTES = 1 << 20


@dataclass(slots=True)
class Child:
    """A started worker: its process, its pidfd and our end of its channel."""

    process: subprocess.Popen[bytes]
    pidfd: int
    channel: socket.socket

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone already."""
        if self.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> int:
        """Collect the exit status of a process that has ended (negative: the signal)."""
        status = self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        return status


def environment(threads: int) -> dict[str, str]:
    """Return the child's whole environment: nothing of ours is inherited."""
    return {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": str(threads),
        # Two threads meet at a barrier hundreds of times a token. Sleeping at each
        # (OMP_WAIT_POLICY=passive) halves the speed at one client; libgomp's default,
        # spinning for milliseconds, doubles a step's time as soon as something else
        # wants a core. Some microseconds of spinning cost little in either case.
        "GOMP_SPINCOUNT": "3000",
        # numpy's BLAS would start threads at import, before the sandbox covers them.
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # The wheel reports home from a thread that it starts at import.
        "ORT_DISABLE_TELEMETRY": "1",
    }


def launch(backend: str, descriptors: Sequence[int], config: WorkerConfig) -> Child:
    """Start a worker that will serve `backend`, with `descriptors` inherited.

    Must be called in the thread that outlives the worker: the kernel kills the worker
    when the thread that started it ends.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        ours.setblocking(False)
        process = subprocess.Popen(
            _arguments(backend, theirs.fileno(), descriptors, config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Native libraries write what they like to stderr, texts included.
            stderr=subprocess.DEVNULL,
            env=environment(config.effective_threads),
            cwd="/",
            close_fds=True,
            pass_fds=(theirs.fileno(), *descriptors),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child(process, os.pidfd_open(process.pid), ours)


def _arguments(
    backend: str, channel: int, descriptors: Sequence[int], config: WorkerConfig
) -> list[str]:
    return [
        sys.executable,
        "-I",
        "-m",
        "runtime.worker.main",
        f"--backend={backend}",
        f"--channel={channel}",
        f"--keep={','.join(map(str, descriptors))}",
        f"--parent={os.getpid()}",
        f"--memory-limit-mib={config.memory_limit_mib}",
        f"--max-open-files={config.max_open_files}",
        f"--max-frame-bytes={config.max_frame_bytes}",
        f"--max-queue={config.max_queue}",
        f"--allow-missing-layers={','.join(config.allow_missing_layers)}",
    ]


def load_message(
    bundle: VerifiedBundle, variant: Variant, descriptors: dict[str, int], config: WorkerConfig
) -> worker_pb2.LoadModel:
    """Return the first message to a worker: the manifest, the descriptors, the capacity."""
    manifest = bundle.manifest
    limits = manifest.limits
    sequences = min(filter(None, (config.max_sequences, limits.max_sequences)), default=1)
    return worker_pb2.LoadModel(
        bundle_json=encode_manifest(manifest),
        variant=variant.id,
        descriptors=descriptors,
        threads=config.effective_threads,
        kv_tokens=config.kv_tokens,
        max_sequences=sequences,
        step_tokens=config.step_tokens,
        max_batch=config.max_batch,
        max_queue_delay_us=config.max_queue_delay_us,
    )
