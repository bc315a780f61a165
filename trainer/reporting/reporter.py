"""What a run tells about itself, and to whom.

The loop speaks to one `Reporter`; `Reporters` passes everything on to several: the
terminal, TensorBoard, the history file. Only the first rank reports.

Invariants: figures are plain Python numbers (never tensors, so a reporter cannot keep a
graph or a device alive); no report holds the text of a training example; a reporter that
cannot write does not stop a run: `Reporters` drops it with a note to the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is about to run, for people.

    Attributes:
        name: the recipe's name.
        folder: the run folder; reporters write into it.
        steps: updates the whole run makes (the last step's number).
        first_step: updates already made when this process starts; 0 unless resumed.
        family: kind of network, as in the recipe.
        objective: what is learned, as in the recipe.
        parameters: weights, tied ones counted once.
        trainable: weights that move.
        device: for people: "NVIDIA H100 80GB HBM3" or "cpu (2 threads)".
        dtype: compute type.
        ranks: processes that share the work.
        strategy: "single", "ddp" or "fsdp".
        log_every_steps: steps between written figures.
        tokens_per_step: tokens (or examples' tokens, on average) of one update, if known.
        recipe: every value of the recipe, section by section.
        recipe_digest: hex digest of the recipe.
        sources: the data: name, sha256, bytes, role of each file.
        environment: versions and machine: name to text.
    """

    name: str
    folder: Path
    steps: int
    first_step: int = 0
    family: str = ""
    objective: str = ""
    parameters: int = 0
    trainable: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    ranks: int = 1
    strategy: str = "single"
    log_every_steps: int = 10
    tokens_per_step: float | None = None
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipe_digest: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Figures of one update.

    The loop may report every step or only some; reporters that write files thin what
    they get to `RunPlan.log_every_steps` (`is_due`).

    Attributes:
        step: updates made, this one included; the first is 1.
        loss: mean training loss per target (nats), over the global batch.
        learning_rate: of this update (the first group's, where there are several).
        gradient_norm: global norm before clipping; None if it was not computed.
        tokens: tokens trained on so far, from step 1 on, resumed parts included.
        seconds: training time so far, from step 1 on, resumed parts included.
        tokens_per_second: over the last steps, all ranks together.
        mfu: share of the device's peak arithmetic that was used, 0 to 1; None on CPUs.
        memory: largest allocation on the device (bytes); None where unknown.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    mfu: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Figures of one validation.

    Attributes:
        step: updates made before it.
        loss: mean validation loss per target (nats), without label smoothing.
        metrics: further figures by name, such as "perplexity" or "accuracy".
        best: whether no earlier validation of the run was better.
    """

    step: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: bool = False


class Reporter(Protocol):
    """Someone who is told how a run goes.

    Calls come from one thread, in order: `start` once, then steps, validations and
    notes, then `finish` once. `finish` is also called when a run fails, with what is
    known until then, so that files are closed and the terminal is whole again.
    """

    def start(self, plan: RunPlan) -> None:
        """Take note of what is about to run."""

    def step(self, report: StepReport) -> None:
        """Take note of an update."""

    def validation(self, report: ValidationReport) -> None:
        """Take note of a validation."""

    def note(self, text: str) -> None:
        """Take note of something for people; never the text of a training example."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close; the summary's keys are free, its values are JSON."""


class Reporters:
    """Several reporters as one.

    A reporter that raises OSError (a full disk) is dropped, and the others get a note:
    training goes on without that record. Any other exception is a defect and raised.
    """

    def __init__(self, members: Iterable[Reporter]) -> None:
        self._members = list(members)

    def start(self, plan: RunPlan) -> None:
        """See `Reporter`."""
        self._tell(lambda member: member.start(plan))

    def step(self, report: StepReport) -> None:
        """See `Reporter`."""
        self._tell(lambda member: member.step(report))

    def validation(self, report: ValidationReport) -> None:
        """See `Reporter`."""
        self._tell(lambda member: member.validation(report))

    def note(self, text: str) -> None:
        """See `Reporter`."""
        self._tell(lambda member: member.note(text))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See `Reporter`."""
        self._tell(lambda member: member.finish(summary))

    def _tell(self, say: Callable[[Reporter], None]) -> None:
        for member in tuple(self._members):
            try:
                say(member)
            except OSError as problem:
                self._drop(member, problem)

    def _drop(self, member: Reporter, problem: OSError) -> None:
        self._members.remove(member)
        name = type(member).__name__
        _log.warning("%s stopped: %s", name, problem.strerror or type(problem).__name__)
        self.note(f"{name} stopped: {problem.strerror or type(problem).__name__}; the run goes on")


def is_due(plan: RunPlan, step: int) -> bool:
    """Whether a step's figures are to be written: every so many, the first and the last."""
    return step % plan.log_every_steps == 0 or step in (plan.first_step + 1, plan.steps)
