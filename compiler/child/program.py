"""Run a command to its end, and keep only what is bounded of it.

Its standard output is handed on line by line, or dropped. Of its standard error the end is
kept: it names an assertion that failed, or the error that ended an interpreter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import compiler
from compiler.errors import ChildError

# What a process needs of ours: where programs and libraries are, how many threads the user
# allows. No credentials, no settings of other tools, no folder for a library to load from.
_KEPT: Final = (
    "PATH",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
_MAX_LINE_BYTES: Final = 64 << 20
_TAIL_BYTES: Final = 8 << 10
_PIECE_BYTES: Final = 4 << 10
_MAX_WORDS_CHARS: Final = 400


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; -N for signal N.
        late: whether it was killed at its time limit.
        words: the last line of its stderr, bounded and printable; "" without one.
    """

    status: int
    late: bool
    words: str

    @property
    def cause(self) -> str:
        """How it ended, and what can be done about it, for the end of a sentence."""
        if self.status == -signal.SIGKILL:
            return (
                "was killed by SIGKILL, most likely for want of memory: free some, or take a "
                "smaller model"
            )
        if self.status < 0:
            return (
                f"was ended by {signal.Signals(-self.status).name}: it met something in the file "
                "that it cannot take; see whether the file is whole and made for it"
            )
        return f"ended with status {self.status}"


def environment(scratch: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a child.

    Args:
        scratch: its folder.
        variables: more of them, which go before those here.
    """
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": str(Path(compiler.__file__).resolve().parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        # Libraries that would ask a server, or report to one.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "ORT_DISABLE_TELEMETRY": "1",
        # A failed assertion of ggml would start a debugger to print a backtrace.
        "GGML_NO_BACKTRACE": "1",
        **(variables or {}),
    }


def run_program(
    command: Sequence[str],
    *,
    request: bytes = b"",
    line: Callable[[bytes], None] | None = None,
    seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
    scratch: Path | None = None,
) -> Ended:
    """Run a command in a folder of its own, which goes when it ends.

    Args:
        command: program and arguments; all paths absolute. It is to call `die_with`, or to
            be started through `compiler.child.parent`.
        request: what it reads from its standard input.
        line: gets each line of its standard output, which is dropped otherwise. What it
            raises ends the command.
        seconds: after which it is killed; None for no limit.
        variables: of its environment, besides those of `environment`.
        scratch: where its folder is made; None for the system's place.

    Raises:
        ChildError: it printed a line without an end.
    """
    with tempfile.TemporaryDirectory(
        prefix="casemate-child-", dir=scratch, ignore_cleanup_errors=True
    ) as name:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if line is None else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(Path(name).absolute(), variables),
            # llama.cpp's loader looks for libraries in the current directory.
            cwd=name,
            close_fds=True,
            # A group of its own, so that what it starts can be ended with it.
            start_new_session=True,
        )
        tail = _Tail(process.stderr)
        with _limit(process, seconds) as late:
            try:
                _send(process.stdin, request)
                for text in _lines(process.stdout):
                    if line is not None:
                        line(text)
                status = process.wait()
            finally:
                _kill(process)
                process.wait()
                tail.join()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()
        return Ended(status, late.is_set(), tail.last_line())


@contextmanager
def _limit(process: subprocess.Popen[bytes], seconds: float | None) -> Iterator[threading.Event]:
    """Kill a process at its time limit, and tell by the event that it was."""
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(seconds or 0.0, end)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _send(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is None:
        return
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        # It is dead already; its exit status tells why.
        pass
    with suppress(BrokenPipeError):
        stream.close()


def _lines(stream: IO[bytes] | None) -> Iterator[bytes]:
    while stream is not None and (text := stream.readline(_MAX_LINE_BYTES)):
        if len(text) == _MAX_LINE_BYTES:
            raise ChildError("a process of the compiler printed more than it may")
        yield text


class _Tail:
    """Reads a stream to its end beside everything else, and keeps the last of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while self._stream is not None and (piece := self._stream.readline(_PIECE_BYTES)):
            self._kept = (self._kept + piece)[-_TAIL_BYTES:]

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()

    def last_line(self) -> str:
        """Return the last line with words."""
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip()[:_MAX_WORDS_CHARS] if lines else ""
        return "".join(c if c.isprintable() else "?" for c in last)
