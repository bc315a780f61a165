"""Whatever bytes lie in a safetensors file: tensors or a SourceError, and nothing else."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from compiler.errors import SourceError
from compiler.weights.files import weight_files
from compiler.weights.reading import Weights, open_weights

STORED = save(
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "empty": np.zeros((0, 3), np.float32),
    }
)
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def opened(folder: Path, data: bytes) -> Weights:
    (folder / "model.safetensors").write_bytes(data)
    return open_weights(folder)


def read(folder: Path, data: bytes) -> None:
    for tensor in opened(folder, data).tensors.values():
        assert tensor.read().shape == tensor.shape


def file_of(header: Any, tensors: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def entry(kind: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def test_tensors_are_found_where_they_lie(folder: Path) -> None:
    weights = opened(folder, STORED)
    assert weights.tensors["a"].rows(slice(1, 2)).tolist() == [[3.0, 4.0, 5.0]]
    assert weights.tensors["a"].rows(slice(5, 9)).shape == (0, 3)
    assert weights.tensors["b"].rows(np.array([3, 1])).tolist() == [3.0, 1.0]
    assert weights.tensors["b"].rows(slice(0, 4)).dtype == np.float32
    assert weights.read("a", (2, 3)).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert weights.tensors["empty"].read().shape == (0, 3)
    assert (weights.parameters, weights.size_bytes) == (10, len(STORED))


def test_bfloat16_is_the_upper_half_of_a_float(folder: Path) -> None:
    values = np.array([1.0, -2.5, 3.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    weights = opened(folder, file_of({"x": entry("BF16", [3], 0, 6)}, upper))
    assert weights.read("x", (3,)).tolist() == values.tolist()
    assert weights.tensors["x"].rows(slice(1, 3)).tolist() == [-2.5, 3.0]


def test_other_types_may_lie_there_and_are_not_read(folder: Path) -> None:
    weights = opened(folder, save({"ids": np.arange(3), "x": np.ones(2, np.float32)}))
    assert weights.read("x", (2,)).tolist() == [1.0, 1.0]
    with pytest.raises(SourceError, match="'ids' is I64; weights are exported from F32"):
        weights.require_floats()
    with pytest.raises(SourceError, match="'ids' is I64"):
        weights.tensors["ids"].read()


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


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(folder: Path, data: bytes) -> None:
    with suppress(SourceError):
        read(folder, data)
    with suppress(SourceError):
        read(folder, file_of(data))


DEFECTS = {
    "no header": (file_of(b""), "no header"),
    "a header without an end": (struct.pack("<Q", 1 << 40), "no header"),
    "a header that is no table": (file_of([]), "no table of tensors"),
    "a name twice": (file_of(b'{"a":{},"a":{}}'), "the same key twice"),
    "an unknown type": (file_of({"a": entry("F4", [2], 0, 1)}, b"1"), "'F4', which is unknown"),
    "a length that is not its shape's": (
        file_of({"a": entry("F32", [2], 0, 4)}, b"1234"),
        "does not have the length of its shape",
    ),
    "a negative size": (file_of({"a": entry("F32", [-1], 0, 4)}, b"1234"), "no valid shape"),
    "a gap": (file_of({"a": entry("F32", [1], 4, 8)}, b"12345678"), "leaves a gap"),
    "an overlap": (
        file_of({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, b"123456"),
        "overlaps another",
    ),
    "bytes too many": (file_of({"a": entry("U8", [1], 0, 1)}, b"12"), "1 bytes follow"),
    "a number that is none": (
        file_of({"a": entry("F32", [1], 0, 4)}, b"\0\0\xc0\x7f"),
        "not finite numbers",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named(folder: Path, defect: str) -> None:
    data, words = DEFECTS[defect]
    with pytest.raises(SourceError, match=words) as caught:
        read(folder, data)
    assert str(folder / "model.safetensors") in str(caught.value)


def test_a_tensor_that_is_not_as_the_configuration_says(folder: Path) -> None:
    weights = opened(folder, STORED)
    with pytest.raises(SourceError, match="'c' is missing"):
        weights.read("c", (1,))
    with pytest.raises(SourceError, match=r"'a' is \(2, 3\), config.json says \(3, 2\)"):
        weights.read("a", (3, 2))


@pytest.mark.parametrize("more", [b"", b"\0"])
def test_a_file_that_is_written_to_meanwhile(tmp_path: Path, more: bytes) -> None:
    weights = opened(tmp_path, STORED)
    other = tmp_path / "other"
    other.write_bytes(STORED + more)
    other.rename(tmp_path / "model.safetensors")
    for use in (weights.tensors["a"].read, weights.digests):
        with pytest.raises(SourceError, match="changed while it was read"):
            use()


def test_a_file_that_is_cut_meanwhile_is_an_error_and_no_signal(tmp_path: Path) -> None:
    weights = opened(tmp_path, STORED)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(len(STORED) - 8)
    with pytest.raises(SourceError, match="changed while it was read"):
        weights.tensors["a"].read()


def test_several_files(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        save_file({name[0]: np.full(3, ord(name[0]), np.float32)}, tmp_path / name)
    places = {"b": "b.safetensors", "a": "a.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    weights = open_weights(tmp_path)
    assert [file.path.name for file in weights.files] == ["a.safetensors", "b.safetensors"]
    assert sorted(weights.digests()) == ["a.safetensors", "b.safetensors"]
    assert weights.read("b", (3,)).tolist() == [98.0] * 3
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(SourceError, match="holds 'a', as another file does"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({"x": "../evil.safetensors"}, "in the same folder alone"),
        ({"x": "/evil.safetensors"}, "in the same folder alone"),
        ({"x": "weights.bin"}, "in the same folder alone"),
        ({"x": 7}, "in the same folder alone"),
        ({"x": "gone.safetensors"}, "has no gone.safetensors, which"),
        ({str(n): f"{n}.safetensors" for n in range(2000)}, "more than 1024 files"),
    ],
)
def test_an_index_that_leads_elsewhere(tmp_path: Path, places: object, words: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(SourceError, match=words):
        weight_files(tmp_path)


def test_one_file_and_an_index_are_two_models(tmp_path: Path) -> None:
    for name in ("model.safetensors", "a.safetensors"):
        save_file({"a": np.zeros(1, np.float32)}, tmp_path / name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    with pytest.raises(
        SourceError, match=r"model\.safetensors and model\.safetensors\.index\.json"
    ):
        weight_files(tmp_path)


def test_pickled_weights_are_named_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match="pickled weights can run code"):
        open_weights(tmp_path)
