"""Run optimum in a process of its own, and hear what it says.

Its memory (torch, transformers, the model) goes when it ends, and whatever kills it
leaves the compiler alive with an error that names the cause. Nothing is downloaded: the
child is told that there is no network, and is given a folder with a cleaned
config.json and the weights alone, so that nothing a directory names leads elsewhere.

The protocol: one JSON object on its standard input; on its standard output JSON lines,
{"label": ...} while it works and at last {"result": ...} or {"error": ...}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import compiler
from compiler.bundling.plan import Report
from compiler.onnx_export.errors import ExportError

_MODULE: Final = "compiler.onnx_export.optimum_process"
_MAX_LINE_BYTES: Final = 1 << 20
_LAST_WORDS_BYTES: Final = 4096
_LAST_WORDS_CHARS: Final = 300
# What a process needs of ours; no credentials, no settings of other tools.
_KEPT_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Finish:
    """What comes behind the states of tokens, where the stock class does not say.

    Attributes:
        pooling: "mean", "cls" or "last"; how a text becomes one vector.
        added: dense layers that finetuning added.
        head: name of the output layer's tensors, or None.
        classes: rows of that layer.
        normalize: whether the vector is divided by its L2 norm.
    """

    pooling: str
    added: int = 0
    head: str | None = None
    classes: int = 0
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What the process is to do.

    Attributes:
        folder: with config.json and the weights, and nothing else.
        output: an empty folder for the graphs.
        task: in optimum's words, without "-with-past".
        cache: whether the graphs take and give keys and values.
        opset: of the graphs.
        added: dense layers to put before the output layer of the stock class.
        finish: what comes behind a base model's states.
    """

    folder: Path
    output: Path
    task: str
    cache: bool
    opset: int
    added: int = 0
    finish: Finish | None = None

    def encode(self) -> bytes:
        """Return the job as the process reads it."""
        paths = {"folder": str(self.folder), "output": str(self.output)}
        return json.dumps(asdict(self) | paths).encode()

    @classmethod
    def decode(cls, data: bytes) -> Job:
        """Read what `encode` wrote."""
        values = json.loads(data)
        finish = values.pop("finish")
        values |= {"folder": Path(values["folder"]), "output": Path(values["output"])}
        return cls(**values, finish=None if finish is None else Finish(**finish))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the process did.

    Attributes:
        graphs: names of the files that it wrote.
        tools: name to version.
        peak_bytes: the most memory that it held.
    """

    graphs: tuple[str, ...]
    tools: Mapping[str, str]
    peak_bytes: int


def run_job(job: Job, report: Report) -> Outcome:
    """Do a job in a process of its own.

    Raises:
        ExportError: it cannot be done, or the process died.
    """
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env=_environment(job.output),
            cwd=job.output,
        )
        answer: dict[str, Any] = {}
        try:
            with child:
                _send(child.stdin, job.encode())
                for line in iter(lambda: _line(child.stdout), b""):
                    answer = _parse(line)
                    if "label" in answer:
                        report(str(answer["label"]))
        finally:
            # Also when somebody interrupts us: it must not go on alone.
            if child.poll() is None:
                child.kill()
                child.wait()
        if "error" in answer:
            raise ExportError(str(answer["error"]))
        if child.returncode != 0 or "result" not in answer:
            raise ExportError(
                f"the process that exports the model {_ending(child.returncode)} "
                f"({_last_words(words)}); nothing was written. Is there enough memory, and does "
                "transformers itself open the folder?"
            )
    result = answer["result"]
    return Outcome(tuple(result["graphs"]), dict(result["tools"]), int(result["peak_bytes"]))


def _environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing is computed with the weights; threads would only cost memory.
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(Path(compiler.__file__).resolve().parents[1]),
    }


def _send(pipe: IO[bytes] | None, data: bytes) -> None:
    if pipe is None:
        raise ExportError("the process that exports the model could not be spoken to")
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        # It died before it read; its exit status says more.
        return


def _line(pipe: IO[bytes] | None) -> bytes:
    return b"" if pipe is None else pipe.readline(_MAX_LINE_BYTES)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ExportError("the process that exports the model spoke out of turn") from error
    return answer if isinstance(answer, dict) else {}


def _ending(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _last_words(words: IO[bytes]) -> str:
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - _LAST_WORDS_BYTES))
    lines = words.read().decode(errors="replace").strip().splitlines()
    return repr(lines[-1][:_LAST_WORDS_CHARS]) if lines else "it said nothing"
