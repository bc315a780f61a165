"""The compiling guide says what is: commands, options, formats and bounds that exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from casemate.cli.main import cli
from casemate.cli.registry import COMMANDS
from compiler.bundling.formats import named_plan
from compiler.commands.options import DEFAULT_QUALITY, QUALITIES
from compiler.targets.choosing import named_targets
from compiler.tune.onnx_predict import RATES, TILES_GAIN
from compiler.tune.promise import QUALITIES as PROMISES
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/compiling.md").read_text()
FORMAT = (ROOT / "docs/formats/bundle.md").read_text()


def commands_in_guide() -> list[list[str]]:
    """Every indented command line of the guide, as words."""
    lines = [line.strip() for line in GUIDE.splitlines() if line.startswith("    casemate ")]
    return [line.split()[1:] for line in lines]


def options_of(name: str) -> set[str]:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    named = [param for param in command.params if isinstance(param, click.Option)]
    return {opt for param in named for opt in (*param.opts, *param.secondary_opts)}


def test_the_five_commands_stand_first_and_in_order() -> None:
    first = [words[0] for words in commands_in_guide()[:5]]
    assert first == ["train", "compile", "sign", "install", "serve"]


@pytest.mark.parametrize("words", commands_in_guide(), ids=lambda words: " ".join(words[:2]))
def test_every_command_and_option_exists(words: list[str]) -> None:
    assert words[0] in COMMANDS
    known = options_of(words[0])
    if words[0] == "models":
        return
    assert {word for word in words if word.startswith("-")} <= known


def test_options_named_in_the_text_exist() -> None:
    named = set(re.findall(r"`(--[a-z0-9-]+)", GUIDE))
    assert {"--max-kl", "--calibration", "--work"} <= named
    assert named <= options_of("compile")


def test_the_bounds_are_those_of_the_promises() -> None:
    assert set(QUALITIES) == set(PROMISES)
    assert f"| `{DEFAULT_QUALITY}` (default) |" in GUIDE
    for name, promise in PROMISES.items():
        row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{name}`"))
        cells = [cell.strip() for cell in row.split("|")[2:6]]
        assert float(cells[0]) == promise.max_kl
        assert float(cells[1].lstrip("x")) == promise.max_perplexity_ratio
        assert float(cells[2].rstrip("%")) / 100 == pytest.approx(promise.max_accuracy_drop)
        assert float(cells[3]) == promise.min_spearman


def test_targets_and_formats_exist() -> None:
    targets = {*named_targets(), "this"}
    assert set(re.findall(r"--target ([a-z0-9.-]+)", GUIDE)) <= targets
    for name in re.findall(r"--format ([a-z0-9_]+)", GUIDE):
        backend = LLAMA_CPP if name.startswith("q") else ONNXRUNTIME
        assert named_plan(backend, name)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (ROOT / "docs/guides" / link).exists(), link


def test_the_rates_of_predictions_are_those_of_the_model() -> None:
    for level, (plain, whole, blockwise) in RATES.items():
        name = "none" if level is None else f"`{level}`"
        tiles = f"; with `amx_int8` {whole * TILES_GAIN:g}" if level == "x86-64-v4-vnni" else ""
        assert f"| {name} | {plain:g} | {whole:g}{tiles} | {blockwise:g} |" in GUIDE
