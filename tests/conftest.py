"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before any test imports onnxruntime: its wheel reports home unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A suite started in the background of a shell inherits SIGINT as ignored, and so would
# every process that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same with nohup and the end of a terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "build" / "models"


@pytest.fixture(scope="session")
def gemma_gguf() -> Path:
    """Gemma 3 270M as installed by `make models`."""
    path = MODELS / "gemma-3-270m-q4_k_m.gguf"
    if not path.is_file():
        pytest.skip("Gemma 3 270M is not installed; run `make models`")
    return path


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """all-MiniLM-L6-v2 as installed by `make models`."""
    path = MODELS / "all-MiniLM-L6-v2"
    if not (path / "model.safetensors").is_file():
        pytest.skip("all-MiniLM-L6-v2 is not installed; run `make models`")
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data and conformance vectors."""
    path = Path(os.environ.get("CASEMATE_SHARED", ROOT / ".." / "shared")).resolve()
    if not path.is_dir():
        pytest.skip("no folder of shared vectors; set CASEMATE_SHARED to where it is")
    return path
