"""Record a new bundle's probes by running it once, in a process of its own.

The runtime is another part of the project, which may not be installed where bundles
are made; it is started as a program and never imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from compiler.bundling.plan import Report
from compiler.child.program import run_program
from compiler.errors import SourceError
from security.bundle.content import PROBES_NAME
from security.bundle.manifest import LLAMA_CPP, parse_manifest

RECORD_TIMEOUT_SECONDS = 900
_MODULES = {LLAMA_CPP: "llama_cpp"}
_DEFAULT_MODULE = "onnxruntime"
_STARTER = "compiler.child.parent"


def record_probes(folder: Path, origin: Path, report: Report) -> str | None:
    """Write `probes.jsonl` into the bundle at `folder`.

    Args:
        folder: the bundle, complete but for its probes.
        origin: what it was made of, for errors.
        report: is told what is going on.

    Returns:
        None when they were recorded, or why they could not be (the runtime is not
        installed here).

    Raises:
        SourceError: the bundle does not run, or answers itself differently.
    """
    manifest = parse_manifest((folder / "bundle.json").read_bytes())
    backend = _MODULES.get(manifest.variants[0].backend, _DEFAULT_MODULE)
    for module in ("runtime", backend):
        if importlib.util.find_spec(module) is None:
            return f"the runtime extra is not installed here (no module {module!r})"
    report("running the bundle once to record its probes")
    program = [sys.executable, "-P", "-m", "runtime.probes", "record", str(folder.absolute())]
    ended = run_program(
        [sys.executable, "-P", "-m", _STARTER, str(os.getpid()), *program],
        seconds=RECORD_TIMEOUT_SECONDS,
    )
    if ended.late:
        raise SourceError(
            f"{origin}: recording the probes took longer than {RECORD_TIMEOUT_SECONDS} seconds; "
            "look into it, or leave them out with --no-probes"
        )
    if ended.status or not (folder / PROBES_NAME).is_file():
        reason = ended.words.removeprefix("error: ") or f"the process {ended.cause}"
        raise SourceError(
            f"{origin}: a bundle of it cannot be run: {reason} "
            "(--no-probes makes it without running it)"
        )
    return None
