"""docs/guides/bundles.md says what the pre-parsers do: its lists are compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import security.preparse
from security.preparse import onnx_schema
from security.preparse.gguf_arch import ARCHITECTURES
from security.preparse.gguf_types import TENSOR_TYPES
from security.preparse.gguf_vocab import TOKENIZER_MODELS
from tests.preparse import bad_gguf, bad_onnx

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/bundles.md").read_text()


def words(start: str, end: str) -> set[str]:
    """Words in backticks between two phrases of the guide."""
    part = GUIDE[GUIDE.index(start) : GUIDE.index(end, GUIDE.index(start))]
    return set(re.findall(r"`([^`]+)`", part))


def reasons() -> set[str]:
    """Every reason word in the pre-parsers' code."""
    found = {"training-info", "function"}
    for path in Path(security.preparse.__file__).parent.glob("*.py"):
        found |= set(re.findall(r'\brefuse\(\s*"([a-z0-9-]+)"', path.read_text()))
    return found


def test_the_lists_are_those_of_the_code() -> None:
    assert words("Architectures:", "(dense") == ARCHITECTURES
    assert words("Tensor types:", "Tokenizers:") == {t.name for t in TENSOR_TYPES.values()}
    assert words("Tokenizers:", "Every tensor") == TOKENIZER_MODELS
    versions = f"IR version {onnx_schema.MIN_IR_VERSION} to {onnx_schema.MAX_IR_VERSION}"
    assert f"{versions}, opset {onnx_schema.MIN_OPSET} to {onnx_schema.MAX_OPSET}" in GUIDE


def test_the_reasons_are_those_of_the_code() -> None:
    assert words("| about | words |", "A model that is refused") == reasons()


def test_every_expected_reason_is_a_documented_one() -> None:
    expected = {
        reason for cases in (bad_gguf.CASES, bad_onnx.CASES) for _, reason in cases.values()
    }
    assert expected <= reasons()
