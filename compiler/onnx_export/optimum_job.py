"""Run optimum in a process of its own.

Its memory (torch, transformers, the model) goes when it ends, and whatever kills it
leaves the compiler alive with an error that names the cause. Nothing is downloaded: the
child is told that there is no network, and is given a folder with a cleaned
config.json and the weights alone, so that nothing a directory names leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compiler.bundling.plan import Report
from compiler.child.job import run_child
from compiler.errors import ChildError, ExportError

_MODULE: Final = "compiler.onnx_export.optimum_process"


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
        folder: with config.json and links to the weights, and nothing else.
        weights: the folder of the weights themselves.
        output: an empty folder for the graphs.
        task: in optimum's words, without "-with-past".
        cache: whether the graphs take and give keys and values.
        opset: of the graphs.
        added: dense layers to put before the output layer of the stock class.
        finish: what comes behind a base model's states.
    """

    folder: Path
    weights: Path
    output: Path
    task: str
    cache: bool
    opset: int
    added: int = 0
    finish: Finish | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        places = {"folder": self.folder, "weights": self.weights, "output": self.output}
        return asdict(self) | {name: str(place.absolute()) for name, place in places.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Read what `to_dict` returned."""
        finish = values["finish"]
        return cls(
            **{
                **values,
                **{name: Path(values[name]) for name in ("folder", "weights", "output")},
                "finish": None if finish is None else Finish(**finish),
            }
        )


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
        SourceError: it cannot be done.
        ExportError: it failed, or the process died.
        OSError: a graph cannot be written.
    """
    # Nothing is computed with the weights; threads would only cost memory.
    variables = {"OMP_NUM_THREADS": "1"}
    try:
        made = run_child(
            _MODULE,
            job.to_dict(),
            progress=lambda label, _: report(label),
            variables=variables,
        )
    except ChildError as error:
        raise ExportError(
            f"the model was not exported, and nothing was written: {error}. Is there enough "
            "memory, and does transformers itself open the folder?"
        ) from error
    return Outcome(tuple(made["graphs"]), dict(made["tools"]), int(made["peak_bytes"]))
