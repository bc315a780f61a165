"""`casemate doctor`: what this machine can do, and which protections its kernel gives.

It does not guess from version numbers where it can try: the sandbox is really closed,
in a process of its own, and the result is reported. It changes nothing.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from casemate.cli.output import emit, json_option

MARKS = {"ok": "ok     ", "missing": "MISSING", "warning": "warning", "info": "       "}
EXIT_MISSING = 1

# Each sandbox layer, and what to do where the kernel does not give it.
LAYERS = {
    "session": "needed for workers to end with the appliance; any supported Linux has it",
    "rlimits": "needed to bound a worker's memory; any supported Linux has it",
    "no_new_privs": "needs Linux 3.5 or later",
    "landlock": "needs Linux 5.13 or later with landlock in the kernel's lsm= list",
    "seccomp": "needs CONFIG_SECCOMP_FILTER and the libseccomp library (Debian: libseccomp2)",
}
# Further Landlock rights; where they are missing, seccomp denies the same alone.
EXTRA_LAYERS = {
    "landlock-tcp": "Linux 6.7 or later adds it; seccomp denies sockets meanwhile",
    "landlock-scope": "Linux 6.12 or later adds it; seccomp denies signals meanwhile",
}
LIBRARIES = {
    "llama-cpp-python": "0.3.36",
    "onnxruntime": "1.32.0",
    "tokenizers": "",
    "numpy": "",
    "grpcio": "",
    "protobuf": "",
    "cryptography": "",
}
CPU_FEATURES = {
    "avx2": "without it models run several times slower",
    "fma": "without it models run several times slower",
    "f16c": "without it half precision is slow",
    "avx512f": "",
    "avx512_vnni": "",
    "avx_vnni": "",
    "avx512_bf16": "",
    "amx_int8": "",
}
MIN_MEMORY_MIB = 2048
_SELFTEST_TIMEOUT_SECONDS = 30
_F_GET_SEALS = 1034
_F_ADD_SEALS = 1033
_F_SEAL_ALL = 0xF


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `mark` is a key of MARKS."""

    group: str
    name: str
    mark: str
    value: str
    advice: str = ""


def sandbox_checks() -> Iterator[Check]:
    """Close the sandbox in a child and report the layers and what it could still do."""
    outcome = _selftest()
    layers = outcome["layers"]
    error = outcome["error"]
    if error:
        yield Check("sandbox", "all layers", "missing", str(error))
    for layer, advice in LAYERS.items():
        found = layer in layers
        shown = "in force" if found else "not in force"
        yield Check("sandbox", layer, "ok" if found else "missing", shown, "" if found else advice)
    for layer, advice in EXTRA_LAYERS.items():
        found = layer in layers
        shown = "in force" if found else "not in this kernel"
        yield Check("sandbox", layer, "ok" if found else "warning", shown, "" if found else advice)
    for name, held in outcome["trials"].items():
        yield Check("sandbox", name, "ok" if held else "missing", "tried" if held else "failed")


def _selftest() -> dict[str, Any]:
    try:
        result = subprocess.run(
            [sys.executable, "-I", "-m", "runtime.worker.selftest"],
            capture_output=True,
            timeout=_SELFTEST_TIMEOUT_SECONDS,
            check=False,
            env={"OPENBLAS_NUM_THREADS": "1"},
        )
        outcome: dict[str, Any] = json.loads(result.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        reason = f"the trial process gave no answer ({type(error).__name__})"
        return {"layers": [], "error": reason, "trials": {}}
    return outcome


def kernel_checks() -> Iterator[Check]:
    """What the verified opening and the supervisor need of the kernel."""
    yield Check("kernel", "release", "info", platform.release())
    abi = _landlock_abi()
    yield Check("kernel", "landlock ABI", "ok" if abi else "missing", str(abi or "none"))
    sealing = _can_seal()
    yield Check(
        "kernel", "sealed memory files", "ok" if sealing else "missing",
        "yes" if sealing else "no", "" if sealing else "needs Linux 3.17 or later",
    )  # fmt: skip
    release = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
    for name, since in (("openat2", (5, 6)), ("pidfd", (5, 3))):
        found = release >= since
        advice = "" if found else f"needs Linux {since[0]}.{since[1]} or later"
        mark = "ok" if found else "missing"
        yield Check("kernel", name, mark, "yes" if found else "no", advice)


def _landlock_abi() -> int:
    try:
        from py_landlock import Landlock

        return int(Landlock(strict=False).abi_version)
    # The library raises errors of its own where the kernel has none of it.
    except Exception:
        return 0


def _can_seal() -> bool:
    try:
        descriptor = os.memfd_create("doctor", os.MFD_ALLOW_SEALING)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_ALL)
        return fcntl.fcntl(descriptor, _F_GET_SEALS) == _F_SEAL_ALL
    except OSError:
        return False
    finally:
        os.close(descriptor)


def machine_checks() -> Iterator[Check]:
    """Processor, memory and swap."""
    cores = len(os.sched_getaffinity(0))
    yield Check("machine", "cores", "info", str(cores))
    flags = _cpu_flags()
    for feature, loss in CPU_FEATURES.items():
        found = feature in flags
        mark = "ok" if found else ("warning" if loss else "info")
        yield Check("machine", feature, mark, "yes" if found else "no", "" if found else loss)
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total >> 20, memory.available >> 20
    enough = free >= MIN_MEMORY_MIB
    advice = "" if enough else f"a worker of a small model wants {MIN_MEMORY_MIB} MiB"
    value = f"{total} MiB, {free} MiB available"
    yield Check("machine", "memory", "ok" if enough else "warning", value, advice)
    swap = psutil.swap_memory().total >> 20
    advice = "prompts in memory may reach the disk: use encrypted swap, or none" if swap else ""
    yield Check("machine", "swap", "warning" if swap else "ok", f"{swap} MiB", advice)


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    line = next((item for item in text.splitlines() if item.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


def library_checks() -> Iterator[Check]:
    """Versions of the native libraries; where one is pinned, whether it is that one."""
    yield Check("libraries", "python", "info", platform.python_version())
    for name, pinned in LIBRARIES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            advice = "install the runtime extra: pip install 'casemate[runtime]'"
            yield Check("libraries", name, "missing", "not installed", advice)
            continue
        right = not pinned or version == pinned
        advice = "" if right else f"only {pinned} is known to fit; any other corrupts memory"
        yield Check("libraries", name, "ok" if right else "missing", version, advice)


def run_checks() -> list[Check]:
    """Run every check, in the order of the report."""
    return [*sandbox_checks(), *kernel_checks(), *machine_checks(), *library_checks()]


def _render(data: dict[str, Any]) -> None:
    group = ""
    for check in data["checks"]:
        if check["group"] != group:
            group = check["group"]
            click.echo(f"{group}")
        line = f"  {MARKS[check['mark']]}  {check['name']:<24}{check['value']}"
        click.echo(line + (f"  ({check['advice']})" if check["advice"] else ""))
    verdict = "ready: every protection a worker needs is in force"
    click.echo(verdict if data["ready"] else "not ready: see the lines marked MISSING")


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show what this machine can do and which protections it enforces.

    The worker's sandbox is really closed, in a process of its own, and tried. Ends
    with exit code 1 when something is missing that a worker needs.

    \b
    Example:
      casemate doctor
      casemate doctor --json | jq '.checks[] | select(.mark == "missing")'
    """
    checks = run_checks()
    ready = all(check.mark != "missing" for check in checks)
    emit(as_json, {"ready": ready, "checks": [asdict(check) for check in checks]}, _render)
    if not ready:
        raise SystemExit(EXIT_MISSING)
