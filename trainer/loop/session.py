"""One run of a recipe, from its first word to its report.

    RUN/recipe.toml         the recipe in full, written first
    RUN/shards/             tokenized text and the trained tokenizer
    RUN/checkpoints/        what is kept to resume from
    RUN/metrics.jsonl       every figure; RUN/tensorboard/ the same for TensorBoard
    RUN/final/              the checkpoint that the compiler takes; there only when it is whole
    RUN/report.html         for people
    RUN/data.json           figures about the data: vocabulary, labels, warnings
    RUN/data.key            of a private run, what its digests of the data are keyed with
    RUN/summary.json        written last

What it refuses: to go on with other data than the run began with. Invariants: nothing
is deleted but checkpoints that the retention policy lets go; `final` is the best
checkpoint where validation chose one, otherwise the last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import casemate
from trainer.checkpointing.checkpointer import Checkpointer
from trainer.checkpointing.origin import describe_environment
from trainer.data.loader import Sweep
from trainer.distribution.environment import Ranks, resolve
from trainer.distribution.group import Group, connect
from trainer.errors import TrainingError
from trainer.loop.assembly import Assembly, assemble, is_running_text
from trainer.loop.batches import autocast
from trainer.loop.claim import claim, claim_together
from trainer.loop.devices import choose_device, device_name
from trainer.loop.finish import draw_report, finish, write_summary
from trainer.loop.interrupts import StopRequest, stop_on_signals
from trainer.loop.training import Progress, RunningTextFigures, Training
from trainer.loop.updates import Updates, make_updates, with_train
from trainer.privacy.checks import LOGS_NOTE, check_recipe
from trainer.privacy.preparation import refuse_another
from trainer.recipe.describe import all_values, to_toml
from trainer.recipe.digest import recipe_digest
from trainer.recipe.parse import LoadedRecipe
from trainer.reporting.files import PRIVATE_FOLDER, owner_only_files, write_whole
from trainer.reporting.history import HistoryReporter
from trainer.reporting.reporter import Reporter, Reporters, RunPlan
from trainer.reporting.tensorboard import TensorBoardReporter
from trainer.reporting.terminal import TerminalReporter


def run(
    loaded: LoadedRecipe,
    output: Path,
    *,
    quiet: bool = False,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Run a recipe, or go on with a run of it that was cut.

    Args:
        loaded: the recipe.
        output: the run folder; made if missing.
        quiet: show no progress.
        environ: where ranks are looked up; os.environ if None.

    Returns:
        The summary, JSON values; None on ranks other than the first. `finished` is False
        where somebody asked the run to stop; the same call goes on from there.

    Raises:
        RecipeError, DataError: the recipe or the data cannot be used.
        PrivacyError: privacy was asked for and cannot be had with this recipe.
        TrainingError: the run could not go on, what was saved is good; or another process
            is running in the folder, or a private run cannot close it to others.
    """
    recipe = loaded.recipe
    # Before families part ways: none of them may train without the privacy that was asked for.
    warnings = check_recipe(recipe) if recipe.privacy.enabled else []
    ranks = resolve(os.environ if environ is None else environ)
    output.mkdir(parents=True, exist_ok=True)
    reporter = make_reporter(loaded, quiet=quiet) if ranks.is_first else Reporters([])
    if recipe.privacy.enabled:
        reporter.note(LOGS_NOTE)
    for warning in warnings:
        reporter.note(f"warning: {warning}")
    if recipe.model.family == "word-embeddings":
        from trainer.embeddings.session import train_embeddings

        with claim(output):
            write_whole(output / "recipe.toml", to_toml(recipe))
            return train_embeddings(loaded, output, reporter)
    device = choose_device(recipe.run.device, ranks)
    needs_group = recipe.distribution.strategy == "fsdp"
    with (
        _closed(output, private=recipe.privacy.enabled),
        stop_on_signals() as stop,
        connect(ranks, device, recipe.distribution.failure_seconds, always=needs_group) as group,
        # After the ranks have met: a refusal must reach those that would wait for rank 0.
        claim_together(output, group),
    ):
        if ranks.is_first:
            refuse_another(recipe, output)
            write_whole(output / "recipe.toml", to_toml(recipe))
        return Session(loaded, output, ranks, group, reporter).run(stop)


@contextmanager
def _closed(output: Path, *, private: bool) -> Iterator[None]:
    """Keep others out of a private run's folder: its figures are made without noise.

    Raises:
        TrainingError: the folder is not this user's, so that it cannot be closed.
    """
    if not private:
        yield
        return
    try:
        output.chmod(PRIVATE_FOLDER)
    except OSError as problem:
        raise TrainingError(
            f"{output} cannot be closed to other users ({problem.strerror}), and a private run "
            "keeps exact figures of its data there; choose another folder with -o"
        ) from problem
    with owner_only_files():
        yield


def make_reporter(loaded: LoadedRecipe, *, quiet: bool) -> Reporter:
    """Return who is told how the run goes."""
    members: list[Reporter] = [HistoryReporter()]
    if loaded.recipe.report.tensorboard:
        members.append(TensorBoardReporter())
    if not quiet:
        members.append(TerminalReporter())
    return Reporters(members)


class Session:
    """A run on one rank.

    Args:
        loaded: the recipe.
        output: the run folder.
        ranks: who this process is.
        group: the ranks, connected.
        reporter: is told.
    """

    def __init__(
        self, loaded: LoadedRecipe, output: Path, ranks: Ranks, group: Group, reporter: Reporter
    ) -> None:
        self._loaded = loaded
        self._recipe = loaded.recipe
        self._output = output
        self._ranks = ranks
        self._group = group
        self._reporter = reporter

    def run(self, stop: StopRequest) -> dict[str, Any] | None:
        """Assemble, resume, train, finish."""
        parts = assemble(self._recipe, self._output, self._ranks, self._group, self._reporter.note)
        if self._group.is_first and parts.data.report is not None:
            write_whole(self._output / "data.json", json.dumps(parts.data.report, indent=1) + "\n")
        updates = make_updates(self._loaded, self._output, self._group, parts, self._reporter.note)
        parts = with_train(parts, updates.train)
        for note in updates.notes:
            self._reporter.note(note)
        checkpoints = self._output / "checkpoints"
        with (
            closing(updates),
            Checkpointer(
                checkpoints, self._recipe.checkpoint, self._group, self._recipe
            ) as checkpointer,
        ):
            training = self._training(parts, updates, checkpointer)
            saved = checkpointer.latest()
            kept = None
            if saved is not None:
                kept = checkpointer.restore(saved, parts.module, parts.optimizers.parts)
                training.resume(kept)
            updates.begin(training.progress.step, kept)
            self._reporter.start(self._plan(parts, updates.steps, training.progress.step))
            summary: dict[str, Any] = {}
            try:
                reason = training.run(stop)
                step = training.progress.step
                if reason != "asked":
                    step = self._choose(training.progress, checkpointer, parts)
                summary = finish(
                    loaded=self._loaded,
                    output=self._output,
                    group=self._group,
                    parts=parts,
                    progress=training.progress,
                    reason=reason,
                    step=step,
                    exported=updates.exported,
                    reporter=self._reporter,
                )
            finally:
                self._reporter.finish(summary)
                # A run that failed is when its curves are wanted most.
                if not summary and self._group.is_first and self._recipe.report.html:
                    draw_report(self._output)
        if not self._group.is_first:
            return None
        return write_summary(self._output, summary, html=self._recipe.report.html)

    def _training(self, parts: Assembly, updates: Updates, checkpointer: Checkpointer) -> Training:
        recipe, group = self._recipe, self._group
        sweep = None
        if parts.data.validation is not None:
            sweep = Sweep(
                parts.data.validation,
                # Not more rows than training has: they are what the memory was checked for.
                micro_sequences=parts.micro_sequences,
                rank=group.rank,
                world=group.world,
                limit=recipe.evaluation.sequences,
            )
        return Training(
            recipe,
            module=parts.module,
            optimizers=parts.optimizers,
            updates=updates,
            sweep=sweep,
            group=group,
            checkpointer=checkpointer,
            reporter=self._reporter,
            autocast=autocast(recipe.precision.dtype, group.device),
            figures=RunningTextFigures(
                applies=is_running_text(recipe),
                bytes_per_token=parts.data.bytes_per_token,
                flops_per_token=parts.size.flops_per_token,
                device_name=device_name(group.device),
            ),
        )

    def _choose(self, progress: Progress, checkpointer: Checkpointer, parts: Assembly) -> int:
        """Put the weights to export into the network; return the step that they are of."""
        step = progress.step
        if not self._recipe.checkpoint.keep_best or progress.best_loss is None:
            return step
        if progress.best_step == step:
            return step
        best = checkpointer.best()
        if best is None or best.step != progress.best_step:
            self._reporter.note(
                f"the checkpoint of the best step ({progress.best_step}) is gone; the last is "
                "exported instead"
            )
            return step
        checkpointer.restore(best, parts.module, parts.optimizers.parts)
        return best.step

    def _plan(self, parts: Assembly, steps: int, first_step: int) -> RunPlan:
        recipe, group = self._recipe, self._group
        strategy = "ddp" if recipe.distribution.strategy == "auto" else recipe.distribution.strategy
        return RunPlan(
            name=self._loaded.name,
            folder=self._output,
            steps=steps,
            first_step=first_step,
            family=recipe.model.family,
            objective=recipe.objective.kind,
            parameters=parts.size.parameters,
            trainable=parts.size.trainable,
            device=device_name(group.device),
            dtype=recipe.precision.dtype,
            ranks=group.world,
            strategy="single" if group.world == 1 else strategy,
            log_every_steps=recipe.report.log_every_steps,
            tokens_per_step=None,
            recipe=all_values(recipe),
            recipe_digest=recipe_digest(recipe),
            sources=tuple(parts.data.sources),
            environment=_environment(group),
        )


def _environment(group: Group) -> dict[str, str]:
    """Return what computes, for people."""
    found = describe_environment(group.device, group.world)
    return {
        "python": found.python,
        "platform": found.platform,
        "cpu": found.cpu,
        "accelerators": ", ".join(found.accelerators) or "none",
        "code": casemate.__version__,
        **found.packages,
    }
