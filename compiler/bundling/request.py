"""What a user asks of a new bundle, and the manifest that it becomes with a plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from compiler.bundling.plan import Plan
from compiler.errors import SourceError
from compiler.files import ANYWHERE, read_text
from security.bundle.manifest import (
    MAX_TEXT_CHARS,
    BundleLimits,
    BundleManifest,
    ServingDefaults,
    Tokenizer,
    Variant,
)

DEFAULT_CONTEXT_TOKENS: Final = 2048
DEFAULT_SEQUENCES: Final = 16
DEFAULT_ANSWER_TOKENS: Final = 256
_MAX_TEXT_BYTES: Final = 4 * MAX_TEXT_CHARS


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What the user asked for; None stands for "what the model says"."""

    source: Path
    output: Path
    name: str
    version: str
    task: str | None = None
    security_epoch: int = 1
    license_file: Path | None = None
    chat_template_file: Path | None = None
    chat_template_from_source: bool = False
    context_tokens: int | None = None
    max_sequences: int = DEFAULT_SEQUENCES
    not_after: datetime | None = None
    probes: bool = True
    converter: Path | None = None


def manifest_of(request: CreateRequest, plan: Plan, variants: Sequence[Variant]) -> BundleManifest:
    """Return the manifest of the bundle that `request` describes.

    Raises:
        SourceError: an option does not suit the model, or a file of it cannot be read.
    """
    context = _context(request, plan)
    answer = context if plan.task == "generate" else 0
    return BundleManifest(
        name=request.name,
        version=request.version,
        security_epoch=request.security_epoch,
        task=plan.task,
        created=_created(),
        not_after=request.not_after,
        license=_license(request, plan),
        variants=tuple(variants),
        tokenizer=Tokenizer() if plan.tokenizer is not None else None,
        limits=BundleLimits(context, request.max_sequences, answer),
        chat_template=_chat_template(request, plan),
        special_tokens=plan.special_tokens,
        serving_defaults=ServingDefaults(max_tokens=min(DEFAULT_ANSWER_TOKENS, answer)),
        encoder=plan.encoder,
    )


def _context(request: CreateRequest, plan: Plan) -> int:
    asked = request.context_tokens
    if plan.task == "tensor":
        if asked is not None:
            raise SourceError("--context: a graph of plain tensors has no context")
        return 0
    if asked is None:
        return min(plan.context_tokens, DEFAULT_CONTEXT_TOKENS)
    if not 1 <= asked <= plan.context_tokens:
        raise SourceError(
            f"--context {asked}: {plan.origin} takes from 1 to {plan.context_tokens} tokens"
        )
    return asked


def _license(request: CreateRequest, plan: Plan) -> str | None:
    if request.license_file is None:
        return plan.license
    return read_text(request.license_file, _MAX_TEXT_BYTES, ANYWHERE)


def _chat_template(request: CreateRequest, plan: Plan) -> str | None:
    if request.chat_template_file is not None:
        return read_text(request.chat_template_file, _MAX_TEXT_BYTES, ANYWHERE)
    if not request.chat_template_from_source:
        return None
    if plan.chat_template is None:
        raise SourceError(f"{plan.origin}: brings no chat template; give one with --chat-template")
    return plan.chat_template


def _created() -> datetime:
    """Now, or SOURCE_DATE_EPOCH for a build that is to be repeated bit by bit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise SourceError("SOURCE_DATE_EPOCH is not a number of seconds") from error
