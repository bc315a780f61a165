"""Targets: named, described, detected; every defect of a description by its field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from casemate.cpu import AARCH64, LEVELS, X86_64, CpuFeatures, detect
from compiler.commands.targets import command
from compiler.errors import TargetError
from compiler.targets.bandwidth import measure_bandwidth
from compiler.targets.choosing import choose_target, named_targets, read_target, this_machine
from compiler.targets.memory import usable_memory
from compiler.targets.target import NOT_MEASURED, is_this_machine, target_from

GOOD = """
arch = "aarch64"
level = "armv8.2-dotprod"
cores = 4
memory_bytes = 8_589_934_592
bandwidth_gb_s = 12
"""


def described(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "Kitchen Board.toml"
    path.write_text(text)
    return path


def test_a_described_machine_is_called_after_its_file(tmp_path: Path) -> None:
    target = choose_target(str(described(tmp_path, GOOD)))
    assert (target.name, target.cores, target.bandwidth_gb_s) == ("kitchen-board", 4, 12.0)
    assert not is_this_machine(target)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("cores = 4", "", "cores: missing"),
        ("cores = 4", "cores = 0", "cores: must be from 1"),
        ("cores = 4", "cores = true", "cores: must be a whole number"),
        ("cores = 4", 'cores = "4"', "cores: must be a whole number"),
        ("cores = 4", "cores = 4\ncoers = 4", "coers"),
        ('"aarch64"', '"sparc"', "arch: must be one of"),
        ('"aarch64"', '"x86-64"', "level: armv8.2-dotprod is no level of x86-64"),
        ('"armv8.2-dotprod"', '"armv9"', "level: must be one of"),
        ('"armv8.2-dotprod"', "3", "level: must be a string"),
        ("memory_bytes = 8_589_934_592", "memory_bytes = 1", "memory_bytes: must be from"),
        ("bandwidth_gb_s = 12", "bandwidth_gb_s = nan", "bandwidth_gb_s: must be from"),
        ("bandwidth_gb_s = 12", "bandwidth_gb_s = -1.0", "bandwidth_gb_s: must be from"),
        ("cores = 4", 'cores = 4\nfeatures = "sve"', "features: must be an array"),
        ("cores = 4", 'cores = 4\nfeatures = ["$(rm)"]', "features: must be names"),
        ("cores = 4", "cores = = 4", "is not TOML"),
    ],
)
def test_a_defect_is_named_by_its_field(tmp_path: Path, old: str, new: str, field: str) -> None:
    path = described(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TargetError) as caught:
        read_target(path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)


def test_a_file_that_is_missing_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such file"):
        choose_target(str(tmp_path / "none.toml"))
    with pytest.raises(TargetError, match="larger than"):
        read_target(described(tmp_path, "#" * 100_000))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(TargetError, match="x86-64-v4-vnni"):
        choose_target("pentium")


def test_every_level_that_small_machines_have_is_a_named_target() -> None:
    named = named_targets()
    assert {"x86-64-v3", "x86-64-v4-vnni", "armv8.2-dotprod", "armv8.6-i8mm"} == set(named)
    assert all(target.level == name for name, target in named.items())


def test_this_machine_is_detected_and_runs_its_own_code() -> None:
    target = this_machine(bandwidth_gb_s=10.0)
    assert is_this_machine(target)
    assert target.runs_on(detect())
    assert target.cores == detect().threads
    values = {k: v for k, v in target.to_dict().items() if k not in ("name", "origin")}
    assert target_from(values, "this", "detected", "target") == target


def test_memory_is_measured_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiler.targets.choosing.measure_bandwidth", lambda _: 7.5)
    assert choose_target("this").bandwidth_gb_s == 7.5
    target = choose_target("this", measured=False)
    assert target.bandwidth_gb_s == NOT_MEASURED
    assert is_this_machine(target)
    with pytest.raises(TargetError, match="bandwidth_gb_s: must be from"):
        replace(target, origin="named")


def test_a_target_runs_where_its_instructions_are() -> None:
    need = named_targets()["x86-64-v3"]
    level = LEVELS["x86-64-v3"].features
    assert need.runs_on(CpuFeatures(X86_64, level, 2, 2, ""))
    assert not need.runs_on(CpuFeatures(X86_64, level - {"avx2"}, 2, 2, ""))
    assert not need.runs_on(CpuFeatures(AARCH64, level, 2, 2, ""))


def test_bandwidth_is_a_rate_of_memory() -> None:
    assert 0.1 < measure_bandwidth(1, 8 << 20) < 10_000


def test_memory_is_cut_by_the_group(tmp_path: Path) -> None:
    whole = usable_memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory(tmp_path) == whole
    (tmp_path / "memory.max").write_text(f"{256 << 20}\n")
    assert usable_memory(tmp_path) == 256 << 20


def test_the_command_lists_targets_and_which_run_here() -> None:
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 0
    listed = {one["name"]: one for one in json.loads(result.stdout)["targets"]}
    assert listed["this"]["satisfied"]
    assert listed["this"]["missing"] == []
    assert set(listed) == {"this", *named_targets()}
    shown = CliRunner().invoke(command, [])
    assert "RUNS HERE" in shown.stdout
