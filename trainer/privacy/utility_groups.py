"""Groups of examples that utility is told for: by label, and by a field of the examples.

Groups with fewer than FEWEST examples are put together. It refuses a field with values
that are too many, or too long, to be groups: they may be text, and no message repeats one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.data.batch import DataSet
from trainer.data.files import find_files
from trainer.data.records import read_records
from trainer.data.user_groups import places_of
from trainer.errors import DataError
from trainer.evaluation.targets import Targets
from trainer.recipe.schema import DataOptions

FEWEST: Final = 10
MOST_GROUPS: Final = 50
_NAME_CHARACTERS: Final = 80

# bool[M] over the targets, by the name of the group.
Groups = dict[str, NDArray[np.bool_]]


def by_label(own: Targets, labels: tuple[str, ...]) -> Groups:
    """Return the targets of each label."""
    found = {f"label {name}": own.labels == at for at, name in enumerate(labels)}
    return _groups(found, own, "rare labels together")


def by_field(
    own: Targets, dataset: DataSet, paths: Sequence[Path], options: DataOptions, field: str
) -> Groups:
    """Return the targets of each value of a field of the examples.

    Raises:
        DataError: running text, which has no fields; or values that are no groups.
    """
    if getattr(dataset, "table", None) is None:
        raise DataError("--group-field needs labelled examples; running text has no fields here")
    places = places_of(dataset)
    files = find_files([str(path) for path in paths], options.format)
    values: dict[tuple[Path, int], str] = {}
    for record in read_records(files, options.columns, [field]):
        value = record.field(field)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{record.where}: the field {field!r} holds no word and no number")
        values[record.path, record.line] = str(value).strip()
    places_in = zip(places.files, places.lines, strict=True)
    of_items = [values[places.paths[file], int(line)] for file, line in places_in]
    counts = Counter(of_items)
    if len(counts) > MOST_GROUPS or max(map(len, counts)) > _NAME_CHARACTERS:
        # Values of such a field are no groups, and may be text; none is repeated.
        raise DataError(
            f"the field {field!r} has {len(counts):,} values; groups are at most {MOST_GROUPS}, "
            f"with names of at most {_NAME_CHARACTERS} characters"
        )
    names = np.array(of_items)[own.items]
    found = {f"{field} {name}": names == name for name in sorted(counts)}
    return _groups(found, own, f"smaller groups of {field} together")


def _groups(found: Groups, own: Targets, rest: str) -> Groups:
    """Put together what is too small to be told alone."""
    kept: Groups = {}
    small = np.zeros(own.items.shape, dtype=np.bool_)
    for name, chosen in found.items():
        if np.unique(own.items[chosen]).size < FEWEST:
            small |= chosen
        else:
            kept[name] = chosen
    if np.unique(own.items[small]).size >= FEWEST:
        kept[rest] = small
    return kept
