"""Whatever bytes lie in a safetensors file: tensors or a SourceError, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from compiler.errors import SourceError
from compiler.gguf_export.weights import open_weights

STORED = save(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "empty": np.zeros((0, 3), np.float32),
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def read(folder: Path, data: bytes) -> dict[str, tuple[int, ...]]:
    (folder / "model.safetensors").write_bytes(data)
    with open_weights(folder) as weights:
        for tensor in weights.tensors.values():
            tensor.array.sum()
        return {name: tensor.shape for name, tensor in weights.tensors.items()}


def test_tensors_are_found_where_they_lie(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(STORED)
    with open_weights(folder) as weights:
        assert weights.tensors["a"].rows(slice(1, 2)).tolist() == [[3.0, 4.0, 5.0]]
        assert weights.tensors["b"].rows(np.array([3, 0])).tolist() == [3.0, 0.0]
        assert weights.tensors["b"].rows(slice(0, 4)).dtype == np.float32


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(STORED) - 1), byte=st.integers(0, 255))
def test_any_byte_may_be_wrong(folder: Path, place: int, byte: int) -> None:
    data = bytearray(STORED)
    data[place] = byte
    with suppress(SourceError):
        read(folder, bytes(data))


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, len(STORED) - 1))
def test_any_end_may_be_missing(folder: Path, length: int) -> None:
    with pytest.raises(SourceError, match="truncated"):
        read(folder, STORED[:length])


def test_a_file_that_is_written_to_meanwhile(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(STORED)
    with pytest.raises(SourceError, match="changed while it was read"), open_weights(folder):
        path.write_bytes(STORED + b"\0")
