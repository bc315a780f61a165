"""Private text generation for a person: what is being written, and what it may claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from casemate.cli.output import warn
from security.errors import UsageError
from trainer.commands.evaluate import model_folder
from trainer.privacy.synthesis.checking import check_model, check_samples
from trainer.privacy.synthesis.prompts import read_prompts
from trainer.privacy.synthesis.record import SyntheticRecord, record_path
from trainer.privacy.synthesis.run import synthesize
from trainer.privacy.synthesis.settings import Sampling

_BAR_WIDTH = 24
_PUBLIC_PROMPTS = (
    "prompts count as public and are written beside the samples; a prompt that was taken from "
    "the private data voids the claim"
)


def samples_of(
    checkpoint: Path,
    output: Path,
    count: int,
    *,
    sampling: Sampling,
    prompt: Sequence[str] = (),
    prompts: Path | None = None,
    device: str = "auto",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write samples of a checkpoint, or of the final one of a run.

    Args:
        checkpoint: a run's folder or a model directory.
        output: the file of samples.
        count: texts to write.
        sampling: how tokens are drawn.
        prompt: public beginnings.
        prompts: a file of them.
        device: "auto", "cpu" or "cuda".
        progress: is told how far it is.

    Raises:
        UsageError, PrivacyError, CheckpointError, SynthesisError: as `synthesize`.
    """
    if prompt and prompts is not None:
        raise UsageError("give either --prompt or --prompts")
    public = tuple(prompt) if prompts is None else read_prompts(prompts)
    if public:
        warn(_PUBLIC_PROMPTS)
    written = synthesize(
        model_folder(checkpoint),
        output,
        count,
        sampling=sampling,
        prompts=public,
        device=device,
        progress=_bar(progress),
    )
    return {
        **_facts(written.samples, written.record),
        "seconds": round(written.seconds, 3),
        "tokens_per_second": round(written.record.samples.tokens / max(written.seconds, 1e-9), 1),
    }


def checked(samples: Path, model: Path | None) -> dict[str, Any]:
    """Hold samples against their claim, and the claim against a checkpoint if one is given.

    Raises:
        SynthesisError, PrivacyError, CheckpointError: they do not belong together.
    """
    record = check_samples(samples)
    facts = _facts(samples, record)
    if model is None:
        return {**facts, "model_checked": False}
    same = check_model(record, model_folder(model))
    return {**facts, "model_checked": True, "report_unchanged": same}


def _facts(samples: Path, record: SyntheticRecord) -> dict[str, Any]:
    claim = record.claim
    return {
        "samples": str(samples),
        "claim": str(record_path(samples)),
        "texts": record.samples.count,
        "ended": record.samples.ended,
        "tokens": record.samples.tokens,
        "sha256": record.samples.sha256,
        "model": record.model.name,
        "dataset": record.dataset,
        "epsilon": claim.epsilon,
        "delta": claim.delta,
        "unit": claim.unit,
        "user_field": claim.user_field,
        "contributions": claim.contributions,
        "audited": record.audited,
        "prompts": len(record.prompts),
    }


def _bar(progress: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return what draws a bar with the time that is left."""
    began = time.perf_counter()

    def tell(done: int, total: int) -> None:
        filled = _BAR_WIDTH * done // total
        left = (time.perf_counter() - began) / done * (total - done)
        progress(
            f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {done:,} of {total:,} texts, "
            f"about {left:,.0f} s left"
        )

    return tell


def render_samples(data: dict[str, Any]) -> None:
    """Print what was written, and what may be said of it."""
    click.echo(
        f"{data['texts']:,} texts of {data['tokens']:,} tokens in {data['samples']} "
        f"({data['seconds']:.1f} s, {data['tokens_per_second']:,.0f} tokens a second)"
    )
    if data["ended"] < data["texts"]:
        cut = data["texts"] - data["ended"]
        click.echo(f"{cut:,} of them reached the limit of tokens and may stop in a sentence")
    _render_claim(data)
    click.echo(f"claim: {data['claim']}")


def render_checked(data: dict[str, Any]) -> None:
    """Print that samples and claim belong together, and what was not checked."""
    click.echo(f"{data['samples']}: {data['texts']:,} texts, as their claim says")
    _render_claim(data)
    if not data["model_checked"]:
        click.echo("the model itself was not checked; give its checkpoint with --model")
        return
    click.echo(f"the model {data['model']!r} makes this claim")
    if not data["report_unchanged"]:
        click.echo("its privacy.json was written again since, with the same claim")


def _render_claim(data: dict[str, Any]) -> None:
    whom = "record" if data["unit"] == "record" else f"user of up to {data['contributions']}"
    click.echo(
        f"epsilon {data['epsilon']:.3g} at delta {data['delta']:.4g} for a {whom} of "
        f"{data['dataset']!r}, all texts together"
        + (", of an audited model" if data["audited"] else ", of a model without an audit")
    )
    if data["prompts"]:
        click.echo(f"{data['prompts']:,} prompts, which must be public, are part of the claim")
