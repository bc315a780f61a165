"""What ranks and their launcher tell people and one another when one of them is lost.

Apart from `watch` and `group`, so that the launcher need not import torch.
"""

from __future__ import annotations

import sys
from typing import Final

# sysexits.h EX_TEMPFAIL, of a rank that ends because of another: the command may succeed later.
EXIT_LOST: Final = 75
RESUME_HINT: Final = "Run the same command again: it goes on from the last checkpoint."


def print_error(message: str) -> None:
    """Write one error line as the `casemate` command does, past any live display."""
    sys.stderr.write(f"\nerror: {message}\n")
    sys.stderr.flush()
