"""Map a descriptor's bytes without copying them and without opening a path."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from security.preparse.refuse import refuse


@contextmanager
def mapped(fd: int, size: int, max_bytes: int) -> Iterator[mmap.mmap]:
    """Yield the first `size` bytes of `fd`, read-only.

    Private rather than shared, because a sealed memory file may not be mapped shared
    on kernels before 6.7. `size` must be what the descriptor really holds: reading a
    map beyond the end of its file would kill the process. The caller keeps others
    from truncating the file meanwhile (a sealed memory file, or a private directory).

    Raises:
        UnsafeModelError: empty, larger than `max_bytes`, or not of that size.
    """
    if size < 1:
        refuse("empty-file", "the model file is empty")
    if size > max_bytes:
        refuse("file-too-large", f"the model file has {size} bytes; at most {max_bytes} are read")
    try:
        actual = os.fstat(fd).st_size
        if actual != size:
            refuse("wrong-size", f"the model file has {actual} bytes where {size} were expected")
        view = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except OSError as error:
        refuse("unreadable", f"the model file cannot be mapped: {error.strerror}")
    with view:
        yield view
