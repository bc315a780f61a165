"""Run one job of llama.cpp in a process of its own.

The child gets its job as JSON on stdin and answers in JSON lines on a descriptor of its
own: progress, then one result or one error. Whatever llama.cpp prints goes to stderr,
of which the last line is kept: it names the assertion that failed.

Invariants: the child starts with an environment made here from nothing (no
GGML_BACKEND_PATH to load a stranger's library, no PYTHONPATH) in "/", where the loader
finds nothing to load; it is killed at its time limit, when this call is interrupted, and
by the kernel when this process dies. No text of a calibration crosses: tokens do, as
numbers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any, Final

from compiler.errors import ChildError, QuantizationError, SourceError
from compiler.progress import Progress, silent
from security.errors import CasemateError

DEFAULT_SECONDS: Final = 3600.0
_MAX_LINE_CHARS = 400
_MAX_MESSAGE_BYTES = 1 << 26
# The errors of ours that a child may report by name.
ERRORS: Final[dict[str, type[CasemateError]]] = {
    "SourceError": SourceError,
    "QuantizationError": QuantizationError,
    "ChildError": ChildError,
}


def environment(threads: int) -> dict[str, str]:
    """Return the whole environment of a child; nothing of ours is inherited."""
    return {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": str(threads),
        # As the appliance's workers wait at barriers, so that speeds here are theirs.
        "GOMP_SPINCOUNT": "3000",
        "OPENBLAS_NUM_THREADS": str(threads),
        # A failed assertion would start a debugger to print a backtrace.
        "GGML_NO_BACKTRACE": "1",
    }


def run_job(
    job: str,
    arguments: Mapping[str, Any],
    *,
    seconds: float = DEFAULT_SECONDS,
    threads: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run a job of `compiler.llama.worker` to its end and return its result.

    Args:
        job: a name in the worker's table.
        arguments: JSON values; paths absolute.
        seconds: the child is killed when it takes longer.
        threads: for OpenMP and BLAS in the child.
        progress: is told what the child reports.

    Raises:
        ChildError: the child crashed, was killed, took too long or broke the protocol.
        SourceError, QuantizationError, OSError: as the job raised them in the child.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "compiler.llama.worker", job, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(threads),
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    errors = _LastLine(process.stderr)
    try:
        timer.start()
        _send(process, arguments)
        answer = _listen(process, progress)
        status = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        errors.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if "result" in answer and status == 0:
        return dict(answer["result"])
    if "error" in answer:
        raise _error(answer)
    if overdue.is_set():
        raise ChildError(f"{job}: stopped after its time limit of {seconds:g} seconds")
    raise ChildError(f"{job}: {_death(status)}{errors.text}")


def _send(process: subprocess.Popen[bytes], arguments: Mapping[str, Any]) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(json.dumps(arguments).encode())
        process.stdin.close()
    except BrokenPipeError:
        # It is dead already; its exit status tells why.
        return


def _listen(process: subprocess.Popen[bytes], progress: Progress) -> dict[str, Any]:
    """Return the last message of the child; empty when it ended without one."""
    if process.stdout is None:
        return {}
    while line := process.stdout.readline(_MAX_MESSAGE_BYTES):
        try:
            message = json.loads(line)
        except ValueError:
            return {}
        if "progress" not in message:
            return dict(message)
        label, fraction = message["progress"]
        progress(str(label), float(fraction))
    return {}


def _error(answer: Mapping[str, Any]) -> Exception:
    kind, message = str(answer["error"]), str(answer.get("message", ""))
    if kind == "OSError":
        return OSError(int(answer.get("errno", 0)), message)
    return ERRORS.get(kind, ChildError)(message)


def _death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "llama.cpp's process was killed, most likely for want of memory"
    if status < 0:
        return f"llama.cpp's process died of {signal.Signals(-status).name}"
    return f"llama.cpp's process ended without an answer (status {status})"


class _LastLine:
    """Reads a child's stderr to its end and keeps its last line with words."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._line = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._stream is None:
            return
        for line in iter(lambda: self._stream.readline(4096) if self._stream else b"", b""):
            if line.strip():
                self._line = line.strip()

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()

    @property
    def text(self) -> str:
        """ ": " and the line, printable and bounded; empty without one."""
        line = self._line.decode(errors="replace")[:_MAX_LINE_CHARS]
        return ": " + "".join(c if c.isprintable() else "?" for c in line) if line else ""
