"""`casemate --help` stays quick because it loads next to nothing."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("grpc", "cryptography", "rich", "google.protobuf", "numpy")


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(eval(done.stdout.strip().splitlines()[-1]))


def test_the_command_imports_nothing_heavy() -> None:
    assert loaded_after("import casemate.cli.main") == set()


def test_help_of_an_asking_command_imports_nothing_heavy() -> None:
    names = ["generate", "chat", "score", "embed", "classify", "infer", "models"]
    imports = "\n".join(f"import casemate.cli.{name}" for name in names)
    assert loaded_after(imports) == set()


def test_plain_types_need_no_grpc() -> None:
    assert "grpc" not in loaded_after("from casemate.client import Message, Tensor")
