"""A few hundred mutants of each format; tests/fuzz/fuzz_preparse.py runs as many as wanted."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz_preparse import run, targets


@pytest.mark.parametrize("name", ["gguf", "onnx"])
def test_mutants_are_refused_in_bounded_time_and_memory(name: str) -> None:
    check, seeds, header = targets()[name]
    findings = run(check, seeds, header, range(600), seed=1)
    assert not findings.problems
    # Were all of them refused for one reason, the mutator would be too coarse.
    assert len(findings.refused) > 10
