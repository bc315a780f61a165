"""The rules that hold for the project as a whole."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("trainer", "compiler", "runtime", "casemate", "security")


def test_imports_go_one_way() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_generated_stubs_are_what_the_protos_generate() -> None:
    result = subprocess.run(
        [sys.executable, "tools/generate_stubs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_no_other_distribution_claims_an_import_name(room: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(room, []))
    assert owners <= {"casemate"}


def test_the_wire_contracts_are_not_importable() -> None:
    assert not list((ROOT / "proto").rglob("*.py"))


@pytest.mark.parametrize("room", ("security", "runtime"))
def test_no_assert_statement_where_it_could_be_optimized_away(room: str) -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / room).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*assert\b", line)
    ]
    assert offenders == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from casemate.cli.main import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'grpc', 'cryptography', 'rich', 'numpy', 'google.protobuf', 'llama_cpp'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip().endswith("heavy: []"), result.stdout


def test_every_command_of_the_table_exists_and_explains_itself() -> None:
    import importlib

    import click

    from casemate.cli.registry import COMMANDS

    for name, entry in COMMANDS.items():
        command = importlib.import_module(entry.module).command
        assert isinstance(command, click.Command), name
        assert command.help, name
