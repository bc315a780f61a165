"""Reads the `.metadata` of torch's distributed checkpoint, which is a pickle, as data.

A pickle is a program: it names classes, calls them, and sets attributes on whatever it has
named, on a class as well as on an instance. So nothing of torch is handed to it but values
that cannot be changed (data types, sizes). For DCP's own classes it gets stand-ins, made
anew for each file and thrown away with it; what they were filled with is checked, field by
field, and copied into real ones.

What it refuses: every other name; anything but dense tensors; entries that point out of
the checkpoint's folder.
"""

from __future__ import annotations

import pickle
import re
from typing import Any, BinaryIO, Final, TypeVar

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

DATA_FILE: Final = re.compile(r"__([0-9]{1,6})_[0-9]{1,6}\.distcp")
_METADATA_NAMES: Final = frozenset(
    {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
        "StorageMeta",
    }
)
_Value = TypeVar("_Value")


def read_tensor_metadata(file: BinaryIO) -> Metadata:
    """Read what tensors a checkpoint holds.

    Raises:
        pickle.UnpicklingError: it names what is not allowed, or describes no tensors.
        Exception: what damaged pickles raise has no bound.
    """
    reader = _Unpickler(file)
    found = reader.load()
    top = reader.fields(found, "Metadata")
    tensors = _of(top.get("state_dict_metadata"), dict)
    places = _of(top.get("storage_data"), dict)
    return Metadata(
        state_dict_metadata={_of(name, str): _tensor(reader, t) for name, t in tensors.items()},
        planner_data=None,
        storage_data={_index(reader, key): _place(reader, p) for key, p in places.items()},
    )


class _Unpickler(pickle.Unpickler):
    """Finds stand-ins for the classes that describe tensors, and no other name at all."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._stand_ins: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == metadata.__name__ and name in _METADATA_NAMES:
            return self._stand_in(name)
        if (module, name) == (filesystem.__name__, "_StorageInfo"):
            return self._stand_in(name)
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if (module, name) == ("torch.serialization", "_get_layout"):
            return self._stand_in("layout")
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no tensor")

    def fields(self, value: object, name: str) -> dict[str, Any]:
        """Return what an instance of a stand-in was filled with.

        Raises:
            pickle.UnpicklingError: it is none.
        """
        if type(value) is not self._stand_ins.get(name):
            raise _wrong()
        # Not by attribute: those of the class are the pickle's to set.
        filled = object.__getattribute__(value, "__dict__")
        return _of(filled, dict)

    def _stand_in(self, name: str) -> type:
        if name not in self._stand_ins:
            self._stand_ins[name] = type(name, (_StandIn,), {})
        return self._stand_ins[name]


class _StandIn:
    """Keeps what it is called with and what state it is given."""

    def __new__(cls, *values: Any) -> _StandIn:
        made = super().__new__(cls)
        made.__dict__["values"] = values
        return made

    def __setstate__(self, state: Any) -> None:
        # A slot state, which could set attributes elsewhere, is kept as a value.
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def _tensor(reader: _Unpickler, value: object) -> TensorStorageMetadata:
    fields = reader.fields(value, "TensorStorageMetadata")
    properties = reader.fields(fields.get("properties"), "TensorProperties").get("state")
    dtype, layout, gradient, _, pinned = _of(properties, tuple)
    if reader.fields(layout, "layout").get("values") != ("torch.strided",):
        raise pickle.UnpicklingError("a tensor is not laid out densely")
    chunks = [reader.fields(c, "ChunkStorageMetadata") for c in _of(fields.get("chunks"), list)]
    return TensorStorageMetadata(
        properties=TensorProperties(
            dtype=_of(dtype, torch.dtype),
            requires_grad=_of(gradient, bool),
            pin_memory=_of(pinned, bool),
        ),
        size=_size(fields.get("size")),
        chunks=[
            ChunkStorageMetadata(_size(chunk.get("offsets")), _size(chunk.get("sizes")))
            for chunk in chunks
        ],
    )


def _index(reader: _Unpickler, value: object) -> MetadataIndex:
    fields = reader.fields(value, "MetadataIndex")
    offset, index = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _of(fields.get("fqn"), str),
        None if offset is None else _size(offset),
        None if index is None else _of(index, int),
    )


def _place(reader: _Unpickler, value: object) -> _StorageInfo:
    fields = reader.fields(value, "_StorageInfo")
    path = _of(fields.get("relative_path"), str)
    if DATA_FILE.fullmatch(path) is None or fields.get("transform_descriptors") is not None:
        raise pickle.UnpicklingError("it points at what is no data file of the same folder")
    return _StorageInfo(path, _of(fields.get("offset"), int), _of(fields.get("length"), int))


def _size(value: object) -> torch.Size:
    size = _of(value, torch.Size)
    if any(side < 0 for side in size):
        raise _wrong()
    return size


def _of(value: object, wanted: type[_Value]) -> _Value:
    if type(value) is not wanted:
        raise _wrong()
    return value


def _wrong() -> pickle.UnpicklingError:
    return pickle.UnpicklingError("it describes more or other than tensors")
