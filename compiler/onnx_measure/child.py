"""Run a piece of work in a process of its own, so that its memory and its crashes are its own.

The work is a module with `serve(request) -> reply`, both JSON values; arrays travel as
.npz files beside the request. A UsageError of the child is raised here again with its
message; a child that dies otherwise is a ChildError that says how. The last words of a child's
error stream are shown only for an exit that was no crash, and only their type and message of
the exception: never values.

    python -m compiler.onnx_measure.child MODULE REQUEST.json REPLY.json
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler import errors
from compiler.errors import ChildError
from compiler.onnx_measure.result import Feeds
from compiler.progress import Progress, silent
from security.errors import UsageError

_USAGE = 3
# Not __name__, which is "__main__" in a child that starts one of its own.
_NAME = "compiler.onnx_measure.child"


def run_child(
    module: str,
    request: Mapping[str, Any],
    folder: Path,
    *,
    timeout_seconds: float | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Call `serve(request)` of a module in a new process; return its reply.

    Args:
        module: its full name.
        request: JSON values.
        folder: an existing folder for the request and the reply.
        timeout_seconds: after which the process is killed; None waits for as long as it takes.
        progress: is told what the child tells with `say`.

    Raises:
        UsageError: the child's, under its own type where that is one of the compiler's.
        ChildError: it died, or took too long.
    """
    question, answer, words = (folder / name for name in ("request.json", "reply.json", "words"))
    question.write_text(json.dumps(request))
    answer.unlink(missing_ok=True)
    # -P: a folder that happens to be the current one lends no modules.
    command = [sys.executable, "-P", "-m", _NAME, module, str(question), str(answer)]
    status, late = _run(command, words, timeout_seconds, progress)
    if late:
        raise ChildError(f"{module} took longer than {timeout_seconds} seconds")
    if status == _USAGE:
        told = json.loads(answer.read_text())
        kind = getattr(errors, told["error"], UsageError)
        raise kind(told["message"])
    if status < 0:
        name = signal.Signals(-status).name
        raise ChildError(f"{module} was ended by {name}; the file may be too much for this machine")
    if status:
        lines = words.read_text(errors="replace").strip().splitlines()
        raise ChildError(f"{module} failed: {lines[-1][:300] if lines else 'without a word'}")
    reply: dict[str, Any] = json.loads(answer.read_text())
    return reply


def _run(
    command: list[str], words: Path, timeout_seconds: float | None, progress: Progress
) -> tuple[int, bool]:
    """Run the command to its end; return its status, and whether it was killed as too late."""
    # onnxruntime's wheel reports home unless it is told not to.
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    late = threading.Event()
    with (
        words.open("wb") as stderr,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
        ) as process,
    ):

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_seconds or 0.0, stop)
        if timeout_seconds is not None:
            timer.start()
        try:
            for line in process.stdout or ():
                _pass_on(line, progress)
            return process.wait(), late.is_set()
        finally:
            timer.cancel()
            process.kill()


def say(label: str, fraction: float) -> None:
    """Tell the parent's Progress, from within the child."""
    sys.stdout.write(json.dumps([label, fraction]) + "\n")
    sys.stdout.flush()


def _pass_on(line: str, progress: Progress) -> None:
    try:
        label, fraction = json.loads(line)
    # Libraries print to the same stream.
    except (ValueError, TypeError):
        return
    if isinstance(label, str) and isinstance(fraction, float | int):
        progress(label, float(fraction))


def save_feeds(path: Path, feeds: Sequence[Feeds]) -> Path:
    """Write the inputs of several runs to one .npz file."""
    arrays = {
        f"{run}:{name}": array for run, one in enumerate(feeds) for name, array in one.items()
    }
    np.savez(path, allow_pickle=False, **arrays)
    return path


def load_feeds(path: Path) -> list[dict[str, NDArray[Any]]]:
    """Read what `save_feeds` wrote."""
    feeds: list[dict[str, NDArray[Any]]] = []
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            run, _, name = key.partition(":")
            while len(feeds) <= int(run):
                feeds.append({})
            feeds[int(run)][name] = file[key]
    return feeds


def main(arguments: Sequence[str]) -> int:
    """Serve one request; return the exit status."""
    module, question, answer = arguments
    request = json.loads(Path(question).read_text())
    try:
        reply = importlib.import_module(module).serve(request)
    except UsageError as error:
        told = {"error": type(error).__name__, "message": str(error)}
        Path(answer).write_text(json.dumps(told))
        return _USAGE
    Path(answer).write_text(json.dumps(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
