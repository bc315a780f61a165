"""The main module of a child that runs one job of llama.cpp; see child.py.

It refuses to run without the parent that started it. Its own descriptor for answers is
the stdout it was given; what llama.cpp and others print goes to stderr instead.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

from compiler.llama.child import ERRORS
from security.errors import CasemateError

JOBS = {
    "rewrite": "compiler.llama.jobs.rewrite",
    "mix": "compiler.llama.jobs.mix",
    "tokenize": "compiler.llama.jobs.tokenizing",
    "importance": "compiler.llama.jobs.importance",
    "reference": "compiler.llama.jobs.logits",
    "compare": "compiler.llama.jobs.comparing",
    "speed": "compiler.llama.jobs.timing",
    "errors": "compiler.llama.jobs.errors",
}
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the job named on the command line; return the exit status."""
    job, parent = sys.argv[1], int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", closefd=True)
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def progress(label: str, fraction: float) -> None:
        tell({"progress": [label, fraction]})

    try:
        arguments = json.load(sys.stdin)
        result = importlib.import_module(JOBS[job]).run(arguments, progress)
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        text = f"{error.strerror or error}{name}"
        tell({"error": "OSError", "errno": error.errno or 0, "message": text})
        return 0
    except CasemateError as error:
        kind = type(error).__name__
        tell({"error": kind if kind in ERRORS else "SourceError", "message": str(error)})
        return 0
    except MemoryError:
        tell({"error": "ChildError", "message": f"{job}: there is not enough memory"})
        return 0
    tell({"result": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
