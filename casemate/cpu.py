"""What this machine's processor can do, in the words that bundles and targets use.

A bundle may hold one model in several forms, each compiled for a level: a named set of
instructions that its kernels were measured with. `detect` reads what the kernel says of
this machine, `satisfies` answers whether a form made for a level runs well here.

Invariants: only the standard library; nothing is executed, files under /proc and /sys are
read with a bound; a processor that cannot be read has no features rather than guessed
ones; a level that is not in `LEVELS` is an error, never "no requirements".

Sources: the x86-64 psABI, section 3.1.1 (levels v2 to v4, here in the Linux kernel's
spelling of the features); the Arm Architecture Reference Manual (Armv8.2 dot product,
Armv8.6 int8 matrix products); kernel documentation: cgroup-v2, arm64 ELF hwcaps.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

X86_64: Final = "x86-64"
AARCH64: Final = "aarch64"
ARCHITECTURES: Final = (X86_64, AARCH64)

# 1,024 hardware threads at 4 KiB each fit.
_MAX_CPUINFO_BYTES: Final = 4 << 20
_MAX_CONTROL_BYTES: Final = 4096
_MAX_NAME_CHARS: Final = 128

_V2: Final = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"})
_V3: Final = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4: Final = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_DOTPROD: Final = frozenset({"asimd", "atomics", "asimddp"})


class UnknownLevelError(ValueError):
    """A level's name is none of `LEVELS`; the message lists them."""


@dataclass(frozen=True, slots=True)
class CpuLevel:
    """A named set of instructions.

    Attributes:
        name: as bundles and targets write it.
        arch: "x86-64" or "aarch64".
        features: what the processor needs, as /proc/cpuinfo spells it.
        rank: of two levels that a machine satisfies, the higher one is the better choice.
    """

    name: str
    arch: str
    features: frozenset[str]
    rank: int


LEVELS: Final[Mapping[str, CpuLevel]] = MappingProxyType(
    {
        level.name: level
        for level in (
            CpuLevel("x86-64-v2", X86_64, _V2, 1),
            CpuLevel("x86-64-v3", X86_64, _V3, 2),
            CpuLevel("x86-64-v4-vnni", X86_64, _V4 | {"avx512_vnni"}, 3),
            CpuLevel("armv8.2-dotprod", AARCH64, _DOTPROD, 1),
            CpuLevel("armv8.6-i8mm", AARCH64, _DOTPROD | {"i8mm", "bf16"}, 2),
        )
    }
)


@dataclass(frozen=True, slots=True)
class CpuFeatures:
    """A processor as this process may use it.

    Attributes:
        arch: "x86-64", "aarch64", or what the kernel calls another machine.
        features: instructions that every usable core has, as /proc/cpuinfo spells them.
        cores: physical cores this process may use, at least 1.
        threads: hardware threads it may use: affinity, cut by the cgroup's quota.
        model_name: the maker's name, or "" where the kernel gives none.
    """

    arch: str
    features: frozenset[str]
    cores: int
    threads: int
    model_name: str

    def satisfies(self, level: str) -> bool:
        """Tell whether code made for a level runs here.

        Raises:
            UnknownLevelError: there is no such level.
        """
        wanted = find_level(level)
        return wanted.arch == self.arch and wanted.features <= self.features

    def missing(self, level: str) -> tuple[str, ...]:
        """Return what a level needs and this processor lacks; its architecture comes first.

        Raises:
            UnknownLevelError: there is no such level.
        """
        wanted = find_level(level)
        if wanted.arch != self.arch:
            return (wanted.arch,)
        return tuple(sorted(wanted.features - self.features))

    @property
    def level(self) -> str | None:
        """The highest level that is satisfied, or None."""
        best = max(
            (one for one in LEVELS.values() if self.satisfies(one.name)),
            key=lambda one: one.rank,
            default=None,
        )
        return None if best is None else best.name


def find_level(name: str) -> CpuLevel:
    """Return a level by its name.

    Raises:
        UnknownLevelError: there is none; the message lists those there are.
    """
    if name not in LEVELS:
        raise UnknownLevelError(f"no such processor level; there are {', '.join(LEVELS)}")
    return LEVELS[name]


def detect() -> CpuFeatures:
    """Return what the kernel says of this machine; never fails."""
    usable = _affinity()
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            text = file.read(_MAX_CPUINFO_BYTES).decode("utf-8", "replace")
    except OSError:
        text = ""
    allowed = min(len(usable), quota_threads(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))
    return from_cpuinfo(text, platform.machine(), usable, allowed)


def from_cpuinfo(text: str, machine: str, usable: frozenset[int], threads: int) -> CpuFeatures:
    """Return the processor that a /proc/cpuinfo describes.

    Args:
        text: its content.
        machine: what `uname -m` says.
        usable: numbers of the processors that may be used.
        threads: how many of them at once.
    """
    blocks = [_block(part) for part in text.split("\n\n") if part.strip()]
    mine = [one for one in blocks if _number(one.get("processor")) in usable] or blocks
    found = [frozenset((one.get("flags") or one.get("features", "")).split()) for one in mine]
    # A kernel may let cores differ: only what all have is safe wherever a thread runs.
    features = frozenset.intersection(*found) if found else frozenset()
    places = {(one.get("physical id"), one.get("core id")) for one in mine}
    cores = len(places) if all("core id" in one for one in mine) and mine else threads
    name = next((one["model name"] for one in mine if "model name" in one), "")
    return CpuFeatures(
        arch={"x86_64": X86_64, "AMD64": X86_64, "arm64": AARCH64}.get(machine, machine),
        features=features,
        cores=max(1, min(cores, threads)),
        threads=max(1, threads),
        model_name=name[:_MAX_NAME_CHARS],
    )


def quota_threads(own: Path, root: Path) -> int:
    """Return how many threads the cgroups of this process let run at once.

    A quota of 1.5 processors counts as two: a third thread would only wait.

    Args:
        own: /proc/self/cgroup or its like.
        root: where the cgroup file systems are mounted.
    """
    best = math.inf
    for line in _small(own).splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or ".." in parts[2]:
            continue
        if parts[1] == "":
            best = min(best, *_quotas(root, parts[2], "cpu.max"))
        elif "cpu" in parts[1].split(","):
            best = min(best, *_quotas(root / parts[1], parts[2], "cpu.cfs_quota_us"))
    return max(1, math.ceil(best)) if math.isfinite(best) else os.cpu_count() or 1


def _quotas(root: Path, group: str, name: str) -> Iterable[float]:
    """Yield the quota of a group and of each group around it, in processors."""
    folder = root / group.lstrip("/")
    yield math.inf
    while True:
        words = _small(folder / name).split()
        if name == "cpu.cfs_quota_us":
            words += _small(folder / "cpu.cfs_period_us").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
            yield int(words[0]) / int(words[1])
        if folder == root:
            return
        folder = folder.parent


def _small(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_CONTROL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _block(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _affinity() -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return frozenset(range(os.cpu_count() or 1))
