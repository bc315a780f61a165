"""Call a function of ours in a process of its own: `serve(request, progress)` of a module.

The request is JSON on the child's standard input. It answers in JSON lines: its progress,
then one reply or one error. Errors of ours come out here under their own type; an error that
nobody foresaw is named by its type and place, without its message, which might hold a
text. Arrays travel in files whose names are in the request.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compiler import errors
from compiler.child.program import Ended, run_program
from compiler.errors import ChildError, ChildKilledError, SourceError
from compiler.progress import Progress, silent
from compiler.targets.memory import usable_memory
from security.errors import CasemateError

# A file may ask for more work than anybody waits for, such as a loop of 2^62 rounds.
DEFAULT_SECONDS: Final = 3600.0
# A file may also ask for more memory than a machine has. A sound one needs its weights a few
# times over (unpacked, rewritten, checked), the libraries, and room for a batch of inputs.
_LEAST_BYTES: Final = 4 << 30
_TIMES_THE_FILE: Final = 16
_WORKER: Final = "compiler.child.worker"
# Rust's panics quote a text between backticks.
_QUOTED: Final = re.compile(r"'[^']*'?|\"[^\"]*\"?|`[^`]*`?")


def run_child(
    module: str,
    request: Mapping[str, Any],
    *,
    seconds: float | None = None,
    progress: Progress = silent,
    variables: Mapping[str, str] | None = None,
    scratch: Path | None = None,
    of: Path | None = None,
    least_bytes: int = _LEAST_BYTES,
) -> dict[str, Any]:
    """Return what `serve(request, progress)` of a module returns in a new process.

    Args:
        module: its full name.
        request: JSON values; paths absolute.
        seconds: after which the process is killed; None for DEFAULT_SECONDS.
        progress: is told what the child tells its own.
        variables: of its environment, besides those that every child has.
        scratch: where its folder for temporary files is made; None for the system's place.
        of: the file that it works on, whose size limits its memory; without one, or for a
            large one, the limit is the memory that this machine has.
        least_bytes: of that limit, for an empty file.

    Raises:
        CasemateError: the child's; one that is not in compiler.errors as a SourceError.
        OSError: the child's, for instance a full disk.
        ChildKilledError: it was ended by a signal, or took too long.
        ChildError: it failed, or broke the protocol.
    """
    answer: dict[str, Any] = {}
    limit = DEFAULT_SECONDS if seconds is None else seconds

    def line(text: bytes) -> None:
        message = _message(text)
        if "progress" in message:
            label, fraction = message["progress"]
            progress(str(label), float(fraction))
        else:
            answer.update(message)

    # -P: a current directory lends no modules.
    worker = [sys.executable, "-P", "-m", _WORKER]
    command = [*worker, module, str(os.getpid()), str(_memory_limit(of, least_bytes))]
    ended = run_program(
        command,
        request=json.dumps(request).encode(),
        line=line,
        seconds=limit,
        variables=variables,
        scratch=scratch,
    )
    if "error" in answer:
        raise _error(answer)
    if ended.late:
        raise ChildKilledError(f"{module} took longer than {limit:g} seconds, its time limit")
    if ended.status or "reply" not in answer:
        kind = ChildKilledError if ended.status < 0 else ChildError
        raise kind(_death(module, ended))
    return dict(answer["reply"])


def _memory_limit(of: Path | None, least_bytes: int) -> int:
    usable = usable_memory()
    if of is None:
        return usable
    return min(usable, least_bytes + _TIMES_THE_FILE * of.stat().st_size)


def _message(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    # What dies in the middle of a line says so by its status.
    return message if isinstance(message, dict) else {}


def _error(answer: Mapping[str, Any]) -> Exception:
    name, message = str(answer["error"]), str(answer.get("message", ""))
    if name == "OSError":
        return OSError(int(answer.get("errno", 0)), message)
    kind = getattr(errors, name, SourceError)
    return (kind if issubclass(kind, CasemateError) else SourceError)(message)


def _death(module: str, ended: Ended) -> str:
    # What a native library prints may quote what it worked on.
    words = _QUOTED.sub("'...'", ended.words)
    cause = ended.cause if ended.status else "ended without an answer"
    return f"{module} {cause}" + (f" ({words})" if words else "")
