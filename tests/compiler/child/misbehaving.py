"""A job that does what its request says, mostly wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from compiler.errors import QuantizationError
from compiler.progress import Progress
from security.errors import UnsafeModelError


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    how = request["how"]
    if "wait" in how:
        progress(str(os.getpid()), 0.5)
    match how:
        case "answer":
            print("a library speaks", flush=True)
            progress("half", 0.5)
            return {"cwd": str(Path.cwd()), "environment": dict(os.environ)}
        case "crash":
            os.write(2, b"GGML_ASSERT(n > 0) failed: 'the secret' and \"another\"\n")
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(7)
        case "wait":
            signal.pause()
        case "wait with a grandchild":
            subprocess.run([sys.executable, "-c", "import signal; signal.pause()"], check=False)
        case "leave files":
            (Path(tempfile.gettempdir()) / "left").write_text("here")
            os.kill(os.getpid(), signal.SIGKILL)
        case "full disk":
            raise OSError(28, "No space left on device", "/somewhere")
        case "ours":
            raise QuantizationError("of ours")
        case "of another part":
            raise UnsafeModelError("truncated", "of another part")
        case "no memory":
            raise MemoryError
        case "shout":
            os.write(2, b"x" * (1 << 20) + b"\n")
            os.kill(os.getpid(), signal.SIGABRT)
        case "half an answer":
            os.write(3, b'{"reply": {')
            os._exit(0)
    return {"never": dict[str, str]()["the secret"]}
