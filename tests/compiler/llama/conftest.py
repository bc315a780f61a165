"""Tiny GGUF files and calibration tokens for the tests of compiler.llama."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.llama.gguf_file import open_gguf, write_gguf
from compiler.llama.imatrix import gather_imatrix
from tests.support.tiny_models import tiny_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama-architecture model with an output layer of its own, float32."""
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tied(tiny: Path) -> Path:
    """The same model with its embedding as the output layer."""
    path = tiny.with_name("tied.gguf")
    with open_gguf(tiny) as file:
        tensors = [tensor for tensor in file.tensors if tensor.name != "output.weight"]
        write_gguf(path, file, tensors, lambda tensor: [file.rows(file.tensor(tensor.name))])
    return path


@pytest.fixture(scope="session")
def tokens() -> list[int]:
    """Enough tokens for the tiny model, from a seed."""
    return [int(t) for t in np.random.default_rng(3).integers(3, 290, 768)]


@pytest.fixture(scope="session")
def importance(tied: Path, tokens: list[int]) -> Path:
    """The importance matrix of the tied model."""
    out = tied.with_name("importance")
    return gather_imatrix(tied, tokens, out, moments=(".*",), window=128, min_tokens=512)
