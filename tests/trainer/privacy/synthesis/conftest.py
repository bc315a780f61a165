"""A private decoder that all tests of sampling share; nobody writes into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.privacy.synthesis.models import private


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a decoder with a claim."""
    return private(tmp_path_factory.mktemp("synthesis") / "decoder")
