"""The appliance's own directory of verified bundles, and the journal of their states.

    <store>/lock                        flock: one appliance, one store
    <store>/journal                     append-only state journal (docs/guides/updates.md)
    <store>/bundles/<name>/<version>-<digest12>/    one verified bundle per version
    <store>/incoming/<random>/          what `casemate install` wants looked at

Nothing under incoming/ is trusted; everything under bundles/ was verified when it
was written and is verified again each time it is loaded.
"""

from runtime.store.errors import JournalDamaged, StoreError, StoreLocked
from runtime.store.state import State, VersionRecord
from runtime.store.store import Store

__all__ = ["JournalDamaged", "State", "Store", "StoreError", "StoreLocked", "VersionRecord"]
