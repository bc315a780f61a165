"""Write a benchmark's result beside the command and the machine that made it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SERVING_PACKAGES = (
    "llama-cpp-python",
    "onnxruntime",
    "grpcio",
    "protobuf",
    "cryptography",
    "numpy",
)
TRAINING_PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def write(
    name: str,
    result: dict[str, Any],
    packages: Sequence[str] = SERVING_PACKAGES,
    target: str = "bench",
) -> Path:
    """Write `benchmarks/results/<name>.json`; return its path.

    Args:
        name: of the benchmark.
        result: JSON values.
        packages: whose versions decide the figures.
        target: of the Makefile, which runs it.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "command": f"make {target}  # or: python -m benchmarks {name}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "result": result,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
