"""The native inner loop, or a clear error where it was not built."""

from __future__ import annotations

import importlib
from types import ModuleType

from trainer.errors import TrainingError

_NAME = "trainer.embeddings._sgns"


def load(name: str = _NAME) -> ModuleType:
    """Return the native module; `_sgns.pyi` has its types.

    Raises:
        TrainingError: it was not built, or for another Python; says how to build it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(
            f"the native part of word embeddings ({name}) is missing: {error}. Build it in the "
            "source folder with `pip install --no-deps --editable .` (this needs a C++17 compiler "
            "and Python's headers)"
        ) from error
