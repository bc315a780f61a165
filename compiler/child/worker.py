"""The main module of a child that does one job of the compiler's; see job.py.

    python -m compiler.child.worker MODULE PARENT BYTES

It refuses to run without the parent that started it, and takes no more memory than BYTES.
Its descriptor for answers is the stdout that it was given; what libraries print there goes
to stderr instead.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from compiler.child.parent import die_with, limit_memory
from security.errors import CasemateError


def main(arguments: list[str]) -> int:
    """Do the job; return the exit status."""
    module, parent, limit = arguments
    if not die_with(int(parent)):
        return 1
    limit_memory(int(limit))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def progress(label: str, fraction: float) -> None:
        tell({"progress": [label, fraction]})

    request = json.load(sys.stdin)
    try:
        tell({"reply": importlib.import_module(module).serve(request, progress)})
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        text = f"{error.strerror or type(error).__name__}{name}"
        tell({"error": "OSError", "errno": error.errno or 0, "message": text})
    except CasemateError as error:
        tell({"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        message = (
            f"{module}: not enough memory within its limit of {int(limit) >> 20} MiB; free some, "
            "or see whether the file is sound: for its size, few need as much"
        )
        tell({"error": "ChildKilledError", "message": message})
    # Whatever it is, the message may quote what was worked on; type and place do not.
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        message = f"{module} failed: {type(error).__name__} in {where}"
        tell({"error": "ChildError", "message": message})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
