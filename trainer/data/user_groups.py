"""Which records belong to which user: what user-level privacy draws and bounds.

Users are told apart by a field of the records. Nothing of the field is kept: only a keyed
digest, whose key is thrown away. Of a user with more records than may be used, the first
ones are taken; which ones depends on nobody else.

It refuses records without the field, or with an empty one, naming file and line.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.batch import DataSet
from trainer.data.files import find_files
from trainer.data.records import Record, read_records
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import DataOptions, Recipe


class Places(Protocol):
    """Where the items of a data set stand in their files, in the order of the items."""

    @property
    def lines(self) -> NDArray[np.int64]:
        """Lines from 1, i64[N]."""
        ...

    @property
    def files(self) -> NDArray[np.int32]:
        """Index into `paths`, i32[N]."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        ...


def user_groups(recipe: Recipe, places: Places) -> list[NDArray[np.int64]]:
    """Return for each user the indices of their records, at most privacy.contributions.

    Users come in the order of their first record. A record beyond the bound is in no group.

    Raises:
        DataError: a record does not say whose it is.
        RecipeError: the recipe names no field with users.
    """
    field, most = recipe.privacy.user_field, recipe.privacy.contributions
    if not field:
        raise RecipeError(
            "privacy.unit is 'user': name the field that tells users apart in privacy.user_field"
        )
    users = _users_by_place(recipe.data, field)
    groups: dict[bytes, list[int]] = {}
    for index, (file, line) in enumerate(zip(places.files, places.lines, strict=True)):
        path = places.paths[file]
        user = users.get((path, int(line)))
        if user is None:
            raise DataError(f"{path}:{line}: the files changed while they were read")
        records = groups.setdefault(user, [])
        if len(records) < most:
            records.append(index)
    return [np.asarray(records, dtype=np.int64) for records in groups.values()]


def places_of(dataset: DataSet) -> Places:
    """Return where the items of a data set of records or examples stand.

    Raises:
        RecipeError: its items are no records of a file.
    """
    table: Any = getattr(dataset, "table", None)
    if table is None:
        raise RecipeError("privacy.unit 'user' needs records; this data set has none")
    places: Places = table
    return places


def _users_by_place(options: DataOptions, field: str) -> dict[tuple[Path, int], bytes]:
    key = os.urandom(16)
    files = find_files(options.train, options.format)
    for file in files:
        if file.format in ("text", "lines"):
            raise DataError(
                f"{file.path}: plain text does not say whose it is; user-level privacy needs "
                "JSONL, Parquet, TSV or CSV files"
            )
    records = read_records(files, options.columns, [field])
    return {(record.path, record.line): _digest(record, field, key) for record in records}


def _digest(record: Record, field: str, key: bytes) -> bytes:
    value = record.field(field)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"{record.where}: the field {field!r} names no user; it must hold a word or a whole "
            "number"
        )
    return hashlib.blake2b(str(value).strip().encode(), digest_size=16, key=key).digest()
