"""What a processor can do, read from what kernels say of real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from casemate.cpu import (
    AARCH64,
    LEVELS,
    X86_64,
    UnknownLevelError,
    detect,
    find_level,
    from_cpuinfo,
    quota_threads,
)

ZEN = " ".join(sorted(LEVELS["x86-64-v4-vnni"].features)) + " avx512_bf16"
HASWELL = " ".join(sorted(LEVELS["x86-64-v3"].features))


def x86(number: int, flags: str, core: int | None = None) -> str:
    lines = [f"processor\t: {number}", "model name\t: A Processor", f"flags\t\t: {flags}"]
    if core is not None:
        lines += ["physical id\t: 0", f"core id\t\t: {core}"]
    return "\n".join(lines) + "\n"


def arm(number: int, features: str) -> str:
    return f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU part\t: 0xd0b\n"


def test_levels_of_x86() -> None:
    new = from_cpuinfo(x86(0, ZEN), "x86_64", frozenset({0}), 1)
    assert new.level == "x86-64-v4-vnni"
    assert [name for name in LEVELS if new.satisfies(name)] == [
        "x86-64-v2",
        "x86-64-v3",
        "x86-64-v4-vnni",
    ]
    old = from_cpuinfo(x86(0, HASWELL), "x86_64", frozenset({0}), 1)
    assert old.level == "x86-64-v3"
    assert "avx512_vnni" in old.missing("x86-64-v4-vnni")


def test_levels_of_arm() -> None:
    a76 = "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    board = from_cpuinfo(arm(0, a76), "aarch64", frozenset({0}), 4)
    assert (board.arch, board.level) == (AARCH64, "armv8.2-dotprod")
    assert board.missing("armv8.6-i8mm") == ("bf16", "i8mm")
    assert board.missing("x86-64-v2") == (X86_64,)
    server = from_cpuinfo(arm(0, f"{a76} i8mm bf16 sve"), "aarch64", frozenset({0}), 4)
    assert server.level == "armv8.6-i8mm"


def test_only_what_every_usable_core_has_counts() -> None:
    text = f"{x86(0, ZEN)}\n{x86(1, HASWELL)}"
    assert from_cpuinfo(text, "x86_64", frozenset({0, 1}), 2).level == "x86-64-v3"
    assert from_cpuinfo(text, "x86_64", frozenset({0}), 1).level == "x86-64-v4-vnni"


def test_two_threads_of_a_core_are_one_core() -> None:
    text = "\n".join(x86(number, ZEN, core=number // 2) for number in range(4))
    found = from_cpuinfo(text, "x86_64", frozenset(range(4)), 4)
    assert (found.cores, found.threads) == (2, 4)
    assert from_cpuinfo(text, "x86_64", frozenset(range(4)), 1).cores == 1


@pytest.mark.parametrize("text", ["", "\n\n\n", "nonsense", ":::", "flags", "processor: x\n"])
def test_what_cannot_be_read_has_no_features(text: str) -> None:
    found = from_cpuinfo(text, "riscv64", frozenset({0}), 2)
    assert (found.arch, found.features, found.level) == ("riscv64", frozenset(), None)
    assert found.cores >= 1


def test_an_unknown_level_is_an_error_and_no_requirement_that_holds() -> None:
    for name in ("", "x86-64", "x86-64-v5", "X86-64-V3"):
        with pytest.raises(UnknownLevelError, match="x86-64-v3"):
            find_level(name)
        with pytest.raises(UnknownLevelError):
            detect().satisfies(name)


@pytest.mark.parametrize(
    ("files", "own", "threads"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"a/cpu.max": "max 100000\n", "cpu.max": "300000 100000\n"}, "0::/a\n", 3),
        ({"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "400000 100000\n"}, "0::/a/b\n", 1),
        (
            {"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            "1:cpu:/a\n",
            2,
        ),
    ],
)
def test_a_quota_bounds_the_threads(
    tmp_path: Path, files: dict[str, str], own: str, threads: int
) -> None:
    root, mine = tmp_path / "cgroup", tmp_path / "own"
    mine.write_text(own)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert quota_threads(mine, root) == threads


@pytest.mark.parametrize("own", ["", "0::/\n", "0::/../../etc\n", "bad\n", "1:cpu:/a\n"])
def test_without_a_quota_every_processor_counts(tmp_path: Path, own: str) -> None:
    (tmp_path / "own").write_text(own)
    import os

    assert quota_threads(tmp_path / "own", tmp_path / "none") == (os.cpu_count() or 1)


def test_detecting_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys\nfrom casemate.cpu import detect\nfound = detect()\n"
        "print(found.threads >= found.cores >= 1, 'numpy' in sys.modules, 'click' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["True", "False", "False"]
