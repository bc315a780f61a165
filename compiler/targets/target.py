"""A target: the machine that a model is compiled for, in five figures.

What decides the speed of a small model on a processor is which instructions its kernels
may use, how many cores run them, how fast memory is read, and what fits. A target says
exactly that, and no more.

Invariants: a target is whole or there is none; every error names the field. Bandwidth is
what cores read together from memory in 10^9 bytes a second, not a maker's peak.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from casemate.cpu import ARCHITECTURES, LEVELS, CpuFeatures
from compiler.errors import TargetError

THIS: Final = "this"
NAMED, FILE, DETECTED = ORIGINS = ("named", "file", "detected")

NOT_MEASURED: Final = 0.0
MAX_CORES: Final = 1024
_MIN_MEMORY_BYTES: Final = 64 << 20
_MAX_MEMORY_BYTES: Final = 1 << 46
_MAX_BANDWIDTH: Final = 10_000.0
_MAX_FEATURES: Final = 512
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FEATURE = re.compile(r"[a-z0-9][a-z0-9_.]{0,39}")
_FIELDS: Final = ("arch", "level", "features", "cores", "memory_bytes", "bandwidth_gb_s")
_OPTIONAL: Final = ("level", "features")


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that a model is compiled for.

    Attributes:
        name: what reports and variants call it.
        arch: "x86-64" or "aarch64".
        level: one of casemate.cpu.LEVELS, or None for the plain architecture.
        features: instructions beyond the level's, as /proc/cpuinfo spells them, sorted.
        cores: threads that a model may run at once.
        memory_bytes: memory for the model, its cache and its working space.
        bandwidth_gb_s: bytes that all cores together read from memory, 10^9 a second; of a
            detected machine NOT_MEASURED where nothing is predicted from it.
        origin: "named", "file" or "detected".
    """

    name: str
    arch: str
    level: str | None
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    bandwidth_gb_s: float
    origin: str

    def __post_init__(self) -> None:
        where = f"target {self.name!r}" if _NAME.fullmatch(self.name) else "target"
        if _NAME.fullmatch(self.name) is None:
            raise TargetError("target: name: lower case, digits, '.', '_' and '-' only")
        if self.arch not in ARCHITECTURES:
            raise TargetError(f"{where}: arch: must be one of {', '.join(ARCHITECTURES)}")
        if self.level is not None:
            if self.level not in LEVELS:
                raise TargetError(f"{where}: level: must be one of {', '.join(LEVELS)}")
            if LEVELS[self.level].arch != self.arch:
                raise TargetError(f"{where}: level: {self.level} is no level of {self.arch}")
        if len(self.features) > _MAX_FEATURES or not all(map(_FEATURE.fullmatch, self.features)):
            raise TargetError(f"{where}: features: must be names such as 'avx512_bf16'")
        if tuple(sorted(set(self.features))) != self.features:
            raise TargetError(f"{where}: features: must be sorted, each given once")
        _in_range(where, "cores", self.cores, 1, MAX_CORES)
        _in_range(where, "memory_bytes", self.memory_bytes, _MIN_MEMORY_BYTES, _MAX_MEMORY_BYTES)
        if self.origin != DETECTED or self.bandwidth_gb_s != NOT_MEASURED:
            _in_range(where, "bandwidth_gb_s", self.bandwidth_gb_s, 0.1, _MAX_BANDWIDTH)
        if self.origin not in ORIGINS:
            raise TargetError(f"{where}: origin: must be one of {', '.join(ORIGINS)}")

    @property
    def instructions(self) -> frozenset[str]:
        """All instructions that the target is known to have."""
        base = LEVELS[self.level].features if self.level is not None else frozenset[str]()
        return base | frozenset(self.features)

    def runs_on(self, cpu: CpuFeatures) -> bool:
        """Tell whether code compiled for this target runs on a processor."""
        return self.arch == cpu.arch and self.instructions <= cpu.features

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the name and the origin included."""
        return {
            "name": self.name,
            "arch": self.arch,
            "level": self.level,
            "features": list(self.features),
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "bandwidth_gb_s": self.bandwidth_gb_s,
            "origin": self.origin,
        }


def is_this_machine(target: Target) -> bool:
    """Tell whether figures measured here are figures of the target.

    Only the detected target is: another machine of the same level has other memory.
    """
    return target.origin == DETECTED


def target_from(values: Mapping[str, Any], name: str, origin: str, where: str) -> Target:
    """Return the target that a table of values describes.

    Args:
        values: `arch`, `cores`, `memory_bytes`, `bandwidth_gb_s`, and optionally `level`
            and `features`; nothing else.
        name: what to call it.
        origin: "named" or "file".
        where: what errors begin with, such as the file's path.

    Raises:
        TargetError: a field is missing, unknown, of another type or out of range.
    """
    for key in values:
        if key not in _FIELDS:
            raise TargetError(f"{where}: {key[:40]!r}: no such field; there are {_listed()}")
    for key in _FIELDS:
        if key not in values and key not in _OPTIONAL:
            raise TargetError(f"{where}: {key}: missing")
    features = values.get("features", [])
    if not isinstance(features, list) or not all(isinstance(one, str) for one in features):
        raise TargetError(f"{where}: features: must be an array of strings")
    level = values.get("level")
    if level is not None and not isinstance(level, str):
        raise TargetError(f"{where}: level: must be a string")
    for key in ("cores", "memory_bytes"):
        if not isinstance(values[key], int) or isinstance(values[key], bool):
            raise TargetError(f"{where}: {key}: must be a whole number")
    bandwidth = values["bandwidth_gb_s"]
    if not isinstance(bandwidth, int | float) or isinstance(bandwidth, bool):
        raise TargetError(f"{where}: bandwidth_gb_s: must be a number")
    if not isinstance(values["arch"], str):
        raise TargetError(f"{where}: arch: must be a string")
    try:
        return Target(
            name=name,
            arch=values["arch"],
            level=level,
            features=tuple(sorted(set(features))),
            cores=values["cores"],
            memory_bytes=values["memory_bytes"],
            bandwidth_gb_s=float(bandwidth),
            origin=origin,
        )
    except TargetError as error:
        raise TargetError(f"{where}: {str(error).partition(': ')[2]}") from error


def _in_range(where: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TargetError(f"{where}: {name}: must be from {low:,} to {high:,}")


def _listed() -> str:
    return ", ".join(_FIELDS)
