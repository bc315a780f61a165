"""How fast this machine's cores read memory together, measured in about a second.

Each thread takes the largest of its own share of a buffer that no cache holds; numpy does
that at the speed of memory and lets other threads run meanwhile. The best of a few passes
counts: noise only ever slows a pass.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import numpy as np

_BUFFER_BYTES: Final = 256 << 20
_PASSES: Final = 4
_BYTES_PER_GB: Final = 1e9


def measure_bandwidth(threads: int, buffer_bytes: int = _BUFFER_BYTES) -> float:
    """Return what `threads` threads read from memory together, in 10^9 bytes a second.

    Args:
        threads: at least 1.
        buffer_bytes: read in each pass; many times the last cache.
    """
    share = max(1, buffer_bytes // 4 // threads)
    parts = [np.zeros(share, dtype=np.float32) + np.float32(1) for _ in range(threads)]
    best = min(_pass_seconds(parts) for _ in range(_PASSES))
    return round(4 * share * threads / best / _BYTES_PER_GB, 2)


def _pass_seconds(parts: list[np.ndarray[tuple[int], np.dtype[np.float32]]]) -> float:
    workers = [threading.Thread(target=np.max, args=(one,)) for one in parts]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started
