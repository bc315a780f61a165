"""The one line of an error that is printed outside of the `casemate` command's own path."""

from __future__ import annotations

import sys
from typing import Final

RESUME_HINT: Final = "Run the same command again: it goes on from the last checkpoint."


def print_error(message: str) -> None:
    """Write one error line as the `casemate` command does, past any live display."""
    sys.stderr.write(f"\nerror: {message}\n")
    sys.stderr.flush()
