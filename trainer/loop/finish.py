"""What happens when the last update is made: export, evaluation, report, summary.

    gather the weights -> final/ (atomic) -> evaluate it as it lies on disk -> report

Invariant: what is evaluated and reported is the checkpoint on disk, read back, and not
the network in memory. A report that cannot be made is a note, never a failed run.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.checkpointing.export import export_checkpoint
from trainer.checkpointing.keyed import data_key
from trainer.checkpointing.origin import record_of_run
from trainer.checkpointing.record import TrainingRecord
from trainer.distribution.group import Group
from trainer.distribution.wrap import full_state
from trainer.evaluation.network import evaluate_network
from trainer.evaluation.samples import sample_texts
from trainer.loop.assembly import Assembly
from trainer.loop.training import Progress
from trainer.models.load import load_network
from trainer.recipe.parse import LoadedRecipe
from trainer.reporting.artifacts import write_evaluation, write_samples
from trainer.reporting.files import write_whole
from trainer.reporting.html import render_report
from trainer.reporting.reporter import Reporter

_GENERATING = ("next-token",)
_log = logging.getLogger(__name__)


def finish(
    *,
    loaded: LoadedRecipe,
    output: Path,
    group: Group,
    parts: Assembly,
    progress: Progress,
    reason: str,
    step: int,
    exported: Callable[[Path, int], dict[str, Any]],
    reporter: Reporter,
) -> dict[str, Any]:
    """Export, evaluate and report; return the summary. Every rank must call it.

    Args:
        loaded: the recipe.
        output: the run folder.
        group: the ranks.
        parts: the network, with the weights that are to be exported.
        progress: how far the run came.
        reason: why it ended: "done", "early", "time" or "asked".
        step: whose weights the network holds.
        exported: is told of the exported folder and the step, on the first rank; what it
            says goes into the summary.
        reporter: is told.

    Raises:
        CheckpointError: the export could not be written.
    """
    summary = _figures(progress, reason)
    if reason == "asked":
        return summary
    state = full_state(parts.network)
    if not group.is_first:
        return summary
    reporter.note("exporting the checkpoint")
    final = export_checkpoint(
        output / "final",
        parts.network,
        state,
        parts.data.tokenizer,
        _record(loaded, output, group, parts, metrics=progress.figures_of(step), step=step),
    )
    summary.update(exported(final, step))
    summary["checkpoint"] = str(final)
    # A network that was sharded because a GPU cannot hold it whole is measured on the CPU.
    sharded = group.world > 1 and loaded.recipe.distribution.strategy == "fsdp"
    device = torch.device("cpu") if sharded else group.device
    # Read back: what is measured is what will be shipped.
    recipe = loaded.recipe
    network = load_network(
        final,
        recipe.objective,
        parts.data.labels,
        recipe.model,
        context=recipe.data.sequence_length,
    ).to(device)
    if parts.data.validation is not None:
        reporter.note("evaluating the checkpoint")
        result = evaluate_network(
            network,
            recipe.objective,
            parts.data.validation,
            labels=parts.data.labels,
            bytes_per_token=parts.data.bytes_per_token,
            device=device,
            sequences=recipe.evaluation.sequences,
            batch=parts.micro_sequences,
        )
        write_evaluation(output, result)
        summary["evaluation"] = {"loss": result.loss, **result.metrics}
    if recipe.objective.kind in _GENERATING and recipe.evaluation.samples:
        reporter.note("sampling")
        samples = sample_texts(
            network,
            parts.data.tokenizer,
            count=recipe.evaluation.samples,
            max_tokens=recipe.evaluation.sample_tokens,
            seed=recipe.run.seed,
            device=device,
        )
        write_samples(output, samples)
    return summary


def write_summary(output: Path, summary: dict[str, Any], *, html: bool) -> dict[str, Any]:
    """Draw the report and write summary.json, the last file of a run; return the summary."""
    report = draw_report(output) if html and summary["finished"] else None
    if report is not None:
        summary = {**summary, "report": str(report)}
    write_whole(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def draw_report(output: Path) -> Path | None:
    """Draw report.html from what a run has left so far; None if it cannot be written.

    A run is worth more than its report: a full disk here must not make it fail.
    """
    try:
        return render_report(output)
    except OSError as problem:
        _log.warning("the report could not be written: %s", problem.strerror)
        return None


def _figures(progress: Progress, reason: str) -> dict[str, Any]:
    seconds = progress.seconds
    return {
        "finished": reason != "asked",
        "reason": reason,
        "steps": progress.step,
        "best_step": None if progress.best_loss is None else progress.best_step,
        "seconds": seconds,
        "tokens": progress.tokens,
        "tokens_per_second": progress.tokens / seconds if seconds else 0.0,
        "loss": progress.train_loss,
        "validation_loss": progress.best_loss,
        "metrics": progress.best_metrics,
    }


def _record(
    loaded: LoadedRecipe,
    output: Path,
    group: Group,
    parts: Assembly,
    *,
    metrics: Mapping[str, float],
    step: int,
) -> TrainingRecord:
    recipe = loaded.recipe
    private = recipe.privacy.enabled
    # What is exported may be published: nothing exact of the private records goes with it.
    held_out = private and not recipe.data.validation
    return record_of_run(
        recipe,
        name=loaded.name,
        sources=parts.data.sources,
        data_fingerprint=parts.data.train.fingerprint,
        steps=step,
        metrics={}
        if held_out
        else {name: value for name, value in metrics.items() if math.isfinite(value)},
        device=group.device,
        ranks=group.world,
        origin=parts.network.origin,
        key=data_key(output) if private else None,
    )
