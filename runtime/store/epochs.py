"""Each model's highest security epoch, in a second place than the store's journal.

`<store>.epochs.json`, beside the store's folder, survives the store: who deletes the
store, or puts an older copy in its place, does not make old epochs acceptable again.
It is written after the journal, so it is never ahead of it but when the store was
replaced, which is what opening refuses. It guards against a lost or restored store,
not against who may write both places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runtime.store.errors import StoreError, io_error
from security.errors import SecurityError
from security.files import PRIVATE_MODE, read_bounded, write_atomic

_MAX_BYTES = 1 << 20


def path_beside(store: Path) -> Path:
    """Return where the epochs of a store are remembered outside of it."""
    return store.with_name(f"{store.name}.epochs.json")


def check(path: Path, floors: Mapping[str, int]) -> None:
    """Refuse a store whose journal knows lower epochs than were live here.

    Raises:
        StoreError: "epoch-too-low", or "io" when the file cannot be read as such.
    """
    for name, epoch in sorted(_read(path).items()):
        if floors.get(name, 0) < epoch:
            raise StoreError(
                "epoch-too-low",
                f"{path} says that {name} had security epoch {epoch} live here, and the store's "
                f"journal knows {floors.get(name, 0)}: the store was deleted or replaced by an "
                f"older one. Put the right store back; or, to accept older epochs on purpose, "
                f"remove {path.name}",
            )


def remember(path: Path, floors: Mapping[str, int]) -> None:
    """Write the epochs down, if they are not there already.

    Raises:
        StoreError: "disk-full" or "io".
    """
    if dict(floors) == _read(path):
        return
    try:
        write_atomic(path, json.dumps(dict(sorted(floors.items()))).encode(), PRIVATE_MODE)
    except OSError as error:
        raise io_error("cannot write", path, error) from error


def _read(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    try:
        found = json.loads(read_bounded(path, _MAX_BYTES))
    except (SecurityError, ValueError, RecursionError) as error:
        raise StoreError("io", f"{path} cannot be read as the store's epochs") from error
    if not isinstance(found, dict) or not all(type(epoch) is int for epoch in found.values()):
        raise StoreError("io", f"{path} does not hold the store's epochs")
    return found
