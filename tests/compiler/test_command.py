"""`casemate bundle`: options, output, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from tests.support.tiny_models import tiny_gguf, tiny_onnx


def bundle(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bundle", *map(str, arguments)])


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "t.gguf")


def test_create_prints_json_and_warns_about_missing_probes(gguf: Path, tmp_path: Path) -> None:
    result = bundle(
        "create", gguf, "-o", tmp_path / "b", "--name", "t", "--version", "1.0.0",
        "--no-probes", "--json", "--not-after", "2099-12-31", "--context", "64",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["task"] == "generate"
    assert data["context_tokens"] == 64
    assert data["probes_recorded"] is False
    assert "no probes were recorded" in result.stderr


def test_show_prints_what_create_made(gguf: Path, tmp_path: Path) -> None:
    bundle("create", gguf, "-o", tmp_path / "b", "--name", "t", "--version", "1.0.0", "--no-probes")
    shown = bundle("show", tmp_path / "b", "--json")
    assert shown.exit_code == 0, shown.output
    data = json.loads(shown.stdout)
    assert data["manifest"]["name"] == "t"
    assert data["models"]["default"]["architecture"] == "llama"
    assert bundle("show", tmp_path / "b").exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--not-after", "tomorrow"], "no date"),
        (["--task", "translate"], "translate"),
        (["--max-sequences", "0"], "0"),
        (["--chat-template", "x", "--chat-template-from-source"], "not both"),
    ],
)
def test_wrong_usage(gguf: Path, tmp_path: Path, more: list[str], message: str) -> None:
    result = bundle(
        "create", gguf, "-o", tmp_path / "b", "--name", "t", "--version", "1.0.0", *more
    )
    assert result.exit_code == 2
    assert message in result.output


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 300)
    result = bundle(
        "create", tiny_onnx(tmp_path / "t.onnx"), "-o", target, "--name", "t", "--version", "1.0.0"
    )
    assert result.exit_code == 1
    assert "File name too long" in result.output


@pytest.mark.parametrize("command", [[], ["create"], ["show"]])
def test_help_teaches_with_an_example(command: list[str]) -> None:
    result = bundle(*command, "--help")
    assert result.exit_code == 0
    assert "casemate" in result.output
