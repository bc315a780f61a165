"""torch's distributed checkpoint (DCP), narrowed to tensors.

Saving is DCP's own: each rank writes its shards into one file and flushes it, ranks that
hold the same tensor divide the work, and `.metadata` says where everything is. Loading
reshards: a rank reads what its shards need, whoever wrote it, and needs no other rank.

What it refuses: everything that is no tensor. DCP would unpickle that, and it unpickles
`.metadata` too. Here `.metadata` goes through an unpickler that knows nothing but DCP's
own description of tensors, so that a file from somewhere else can be wrong, but cannot run
code; tensors are read by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.distribution.channel import Channel
from trainer.errors import CheckpointError

METADATA_NAME: Final = ".metadata"
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
# With one rank there is nothing to coordinate, which DCP thinks worth a warning.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or")


def save_tensors(tensors: dict[str, Tensor], folder: Path, channel: Channel) -> None:
    """Write tensors (whole, replicated or DTensor) into an empty folder; all ranks call it.

    Raises:
        CheckpointError: a rank could not write; every rank raises it.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        save(
            tensors,
            storage_writer=_Writer(folder),
            planner=planner,
            process_group=channel.group,
            no_dist=channel.group is None,
        )
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise CheckpointError(f"rank {rank} could not write {folder}: {reason_of(cause)}") from (
            error
        )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder} could not be written: {reason_of(error)}") from error


def read_metadata(folder: Path) -> Metadata:
    """Read and check what tensors a checkpoint holds, without running anything of it.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than tensors.
    """
    path = folder / METADATA_NAME
    try:
        with path.open("rb") as file:
            found = _MetadataUnpickler(file).load()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    # A pickle is a program: what damaged ones raise has no bound.
    except Exception as error:
        raise CheckpointError(
            f"{path} is refused: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return _checked(found, path)


def load_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill the given tensors (whole or DTensor) in place; each rank loads for itself.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or a file is damaged.
    """
    with torch.no_grad():
        try:
            load(
                dict(tensors),
                storage_reader=_Reader(folder),
                planner=_TensorPlanner(),
                no_dist=True,
            )
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise CheckpointError(f"{folder} could not be read: {reason_of(cause)}") from error


def reason_of(error: BaseException) -> str:
    """Return what went wrong in a line: the system's words where there are any."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


class _Writer(FileSystemWriter):
    """DCP's writer; its metadata names no path of this machine."""

    def storage_meta(self) -> StorageMeta | None:
        return StorageMeta()


class _Reader(FileSystemReader):
    """DCP's reader with the restricted unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        found = read_metadata(Path(self.path))
        found.storage_meta = StorageMeta(load_id=self.load_id)
        return found


class _TensorPlanner(DefaultLoadPlanner):
    """DCP's planner, which would unpickle whatever is no tensor."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        del value
        raise CheckpointError(f"{read_item.dest_index.fqn} in the checkpoint is no tensor")


class _MetadataUnpickler(pickle.Unpickler):
    """Finds the classes that describe tensors, and no other name at all."""

    def find_class(self, module: str, name: str) -> Any:
        if module == metadata.__name__ and name in _METADATA_NAMES:
            return getattr(metadata, name)
        if (module, name) == (filesystem.__name__, "_StorageInfo"):
            return filesystem._StorageInfo
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if (module, name) == ("torch.serialization", "_get_layout"):
            return _layout
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no tensor")


def _layout(name: str) -> torch.layout:
    if name != "torch.strided":
        raise pickle.UnpicklingError(f"a tensor has the layout {name[:40]!a}")
    return torch.strided


def _checked(found: object, path: Path) -> Metadata:
    """Refuse what is well-formed pickle but no description of tensors in this folder."""
    if (
        isinstance(found, Metadata)
        and isinstance(found.state_dict_metadata, dict)
        and isinstance(found.storage_data, dict)
        and all(isinstance(e, TensorStorageMetadata) for e in found.state_dict_metadata.values())
        and all(isinstance(name, str) for name in found.state_dict_metadata)
        and all(_is_inside(info) for info in found.storage_data.values())
    ):
        return found
    raise CheckpointError(f"{path} is refused: it describes more or other than tensors")


def _is_inside(info: object) -> bool:
    """Whether an entry points at a data file of the same folder."""
    return (
        isinstance(info, filesystem._StorageInfo)
        and isinstance(info.relative_path, str)
        and DATA_FILE.fullmatch(info.relative_path) is not None
    )
