"""torch's distributed checkpoint (DCP), narrowed to tensors.

Saving is DCP's own: each rank writes its shards into one file and flushes it, ranks that
hold the same tensor divide the work, and `.metadata` says where everything is. Loading
reshards: a rank reads what its shards need, whoever wrote it, and needs no other rank.

What it refuses: everything that is no tensor. DCP would unpickle that, and it unpickles
`.metadata` too. Here `.metadata` is read by `dcp_metadata`, so that a file from somewhere
else can be wrong, but cannot run code or change this process; tensors are read by
`torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.checkpointing.dcp_metadata import read_tensor_metadata
from trainer.distribution.channel import Channel
from trainer.errors import CheckpointError

METADATA_NAME: Final = ".metadata"
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
            return read_tensor_metadata(file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    # A pickle is a program: what damaged ones raise has no bound.
    except Exception as error:
        raise CheckpointError(
            f"{path} is refused: {type(error).__name__}: {str(error)[:200]}"
        ) from error


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
