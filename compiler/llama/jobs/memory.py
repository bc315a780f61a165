"""Memory of this process, from /proc: getrusage's peak is inherited from the parent."""

from __future__ import annotations

from pathlib import Path


def _status(name: str) -> int:
    for line in (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    return 0


def resident_bytes() -> int:
    """Return what is resident now, mapped files included."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most that was ever resident."""
    return _status("VmHWM")
