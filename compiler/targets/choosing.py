"""From what a user wrote behind `--target` to a target.

`this` is detected, a name is looked up in named.toml, a path that ends in `.toml` is read.
A file describes one machine with the fields of a target:

    arch = "aarch64"
    level = "armv8.2-dotprod"
    cores = 4
    memory_bytes = 8_589_934_592
    bandwidth_gb_s = 12.0
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from casemate.cpu import ARCHITECTURES, CpuFeatures, detect
from compiler.errors import SourceError, TargetError
from compiler.files import ANYWHERE, read_text
from compiler.targets.bandwidth import measure_bandwidth
from compiler.targets.memory import usable_memory
from compiler.targets.target import (
    DETECTED,
    FILE,
    NAMED,
    NOT_MEASURED,
    THIS,
    Target,
    target_from,
)

_MAX_FILE_BYTES: Final = 64 << 10
_SUFFIX: Final = ".toml"


def choose_target(text: str, *, measured: bool = True) -> Target:
    """Return the target that `--target text` means.

    Args:
        text: what was written.
        measured: whether to measure this machine's memory, if it is the one; only a search
            asks for that.

    Raises:
        TargetError: no such name, or the file does not describe a target; names the field.
    """
    if text == THIS:
        return this_machine(bandwidth_gb_s=None if measured else NOT_MEASURED)
    if text.endswith(_SUFFIX):
        return read_target(Path(text))
    known = named_targets()
    if text not in known:
        raise TargetError(
            f"there is no target {text[:64]!r}; there are {THIS}, {', '.join(known)}, and "
            f"files that end in {_SUFFIX}"
        )
    return known[text]


def named_targets() -> dict[str, Target]:
    """Return the targets that have names, in the table's order."""
    text = files("compiler.targets").joinpath("named.toml").read_text(encoding="utf-8")
    return {
        name: target_from(values, name, NAMED, f"target {name!r}")
        for name, values in tomllib.loads(text).items()
    }


def read_target(path: Path) -> Target:
    """Return the target that a TOML file describes, called after the file.

    Raises:
        TargetError: the file is missing, no TOML, or a field is wrong; names the field.
    """
    try:
        values: Mapping[str, Any] = tomllib.loads(read_text(path, _MAX_FILE_BYTES, ANYWHERE))
    except SourceError as error:
        raise TargetError(str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{path}: is not TOML: {error}") from error
    name = re.sub(r"[^a-z0-9._-]", "-", path.stem.lower()).lstrip("._-")[:64] or "described"
    return target_from(values, name, FILE, str(path))


def this_machine(cpu: CpuFeatures | None = None, bandwidth_gb_s: float | None = None) -> Target:
    """Return the machine this runs on; measures how fast it reads memory (about a second).

    Args:
        cpu: the processor, where it is known already.
        bandwidth_gb_s: what it reads, where it was measured already; or NOT_MEASURED.

    Raises:
        TargetError: its architecture is not one that models are compiled for.
    """
    cpu = cpu or detect()
    if cpu.arch not in ARCHITECTURES:
        raise TargetError(f"this machine: arch: is not one of {', '.join(ARCHITECTURES)}")
    if bandwidth_gb_s is None:
        bandwidth_gb_s = measure_bandwidth(cpu.threads)
    return Target(
        name=THIS,
        arch=cpu.arch,
        level=cpu.level,
        features=tuple(sorted(cpu.features)),
        cores=cpu.threads,
        memory_bytes=usable_memory(),
        bandwidth_gb_s=bandwidth_gb_s,
        origin=DETECTED,
    )
