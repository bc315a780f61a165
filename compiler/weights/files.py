"""Which files of a folder hold its weights: one, or those that an index names.

Refused, by name: both of them at once, of which readers choose differently; pickled
weights where no safetensors lie beside them (nothing is ever unpickled); an index that names
nothing, too much, a file that is not there, or anything but plain *.safetensors names of its
own folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from compiler.errors import SourceError
from compiler.files import pickle_hint, read_json

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
_MAX_INDEX_BYTES: Final = 16_000_000
_MAX_FILES: Final = 1024
# The names come from the model and must not lead out of its folder.
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of weights, sorted by name.

    Raises:
        SourceError: there are none, one and an index, or the index names something else.
    """
    index = folder / INDEX_FILE
    indexed = os.path.lexists(index)
    if (folder / WEIGHTS_FILE).is_file():
        if indexed:
            raise SourceError(
                f"{folder}: has {WEIGHTS_FILE} and {INDEX_FILE}, and which of them holds the "
                "model is not said; remove the other"
            )
        return (folder / WEIGHTS_FILE,)
    if not indexed:
        raise SourceError(f"{folder}: has no {WEIGHTS_FILE}{pickle_hint(folder)}")
    content = read_json(index, _MAX_INDEX_BYTES)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise SourceError(f"{index}: has no weight_map that names files")
    names = sorted({str(place) for place in places.values()})
    if len(names) > _MAX_FILES:
        raise SourceError(f"{index}: names more than {_MAX_FILES} files")
    for name in names:
        if _PLAIN_NAME.fullmatch(name) is None:
            raise SourceError(
                f"{index}: names {name[:200]!a}; weights are read from safetensors files in the "
                "same folder alone"
            )
        if not (folder / name).is_file():
            raise SourceError(f"{folder}: has no {name}, which {INDEX_FILE} names")
    return tuple(folder / name for name in names)
