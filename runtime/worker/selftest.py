"""Closes the worker's sandbox around itself and says what it then can and cannot do.

Run by `casemate doctor` as a process of its own, because there is no way back. Prints
one JSON object: the layers in force (or why they are not), and for each trial whether
the outcome is the one a worker needs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable

from runtime.errors import SandboxError
from runtime.worker.sandbox import SandboxLimits, enter
from runtime.worker.settings import LAYERS

_MEMORY_MIB = 512
_OPEN_FILES = 32
_CONTENT = b"casemate"


def _reads(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, len(_CONTENT)) == _CONTENT
    finally:
        os.close(descriptor)


def _denied(action: Callable[[], object]) -> bool:
    try:
        action()
    except PermissionError:
        return True
    return False


def trials(path: str) -> dict[str, Callable[[], bool]]:
    """Return what is tried, by what it proves; `path` is a memory file's."""
    return {
        "model descriptors load": lambda: _reads(path),
        "no files": lambda: _denied(lambda: os.open("/etc/passwd", os.O_RDONLY)),
        "no network": lambda: _denied(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
        "no new processes": lambda: _denied(_fork),
        "no signals to others": lambda: _denied(lambda: os.kill(os.getppid(), 0)),
    }


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def main() -> int:
    """Run the trials and print the outcome; returns the exit status."""
    memory = os.memfd_create("selftest")
    os.write(memory, _CONTENT)
    actions = trials(f"/proc/self/fd/{memory}")
    try:
        # Missing layers are given up here so that every one of them is reported.
        layers = list(enter(SandboxLimits(_MEMORY_MIB, _OPEN_FILES), LAYERS))
    except SandboxError as error:
        sys.stdout.write(json.dumps({"layers": [], "error": str(error), "trials": {}}))
        return 1
    outcomes: dict[str, bool] = {}
    for name, action in actions.items():
        try:
            outcomes[name] = action()
        except OSError:
            outcomes[name] = False
    sys.stdout.write(json.dumps({"layers": layers, "error": None, "trials": outcomes}))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
