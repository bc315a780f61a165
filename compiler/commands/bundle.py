"""`casemate bundle`: create bundles and look inside them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, fields, json_option, progress, warn

if TYPE_CHECKING:
    from compiler.bundling.create import CreatedBundle

TASKS = ("generate", "embed", "classify", "tensor")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("bundle")
def command() -> None:
    """Create bundles and look inside them.

    A bundle is a directory with a model, everything needed to serve it, and (after
    'casemate sign') two signatures over all of it.
    """


class Instant(click.ParamType[datetime]):
    """A date (midnight UTC) or an RFC 3339 time in UTC, as an aware datetime."""

    name = "DATE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Parse `2027-01-31` or `2027-01-31T12:00:00Z`."""
        for layout in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"):
            try:
                return datetime.strptime(str(value), layout).replace(tzinfo=UTC)
            except ValueError:
                continue
        self.fail(f"{value!r} is no date such as 2027-01-31 or 2027-01-31T12:00:00Z", param, ctx)


@command.command("create")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="New directory to make."
)
@click.option("--name", required=True, help="The model's name: lower case, digits, '.', '_', '-'.")
@click.option("--version", required=True, help="Semantic version, such as 1.0.0.")
@click.option("--task", type=click.Choice(TASKS), help="Insist on a task.  [default: the model's]")
@click.option(
    "--epoch",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Security epoch: an appliance never goes below the highest it has seen.",
)
@click.option("--license-file", type=_FILE, help="License text to carry along.")
@click.option("--chat-template", type=_FILE, help="Jinja template for chat messages; gets signed.")
@click.option(
    "--chat-template-from-source",
    is_flag=True,
    help="Take the chat template that came with the model; read it before you sign.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Longest context to serve, in tokens.  [default: the model's, at most 2048]",
)
@click.option(
    "--max-sequences",
    type=click.IntRange(min=1, max=256),
    default=16,
    show_default=True,
    help="Requests to work on at once.",
)
@click.option("--not-after", type=Instant(), help="When appliances stop opening it (UTC).")
@click.option(
    "--probes/--no-probes",
    default=True,
    help="Run the bundle once and record golden requests; an appliance installs none without.",
)
@json_option
def create(source: Path, as_json: bool, **options: Any) -> None:
    """Make a bundle of SOURCE: a GGUF or ONNX file, or a model directory.

    Directories may be in sentence-transformers or Hugging Face layout, with BERT
    weights as safetensors (exported to ONNX here) or with an ONNX file.

    \b
    Examples:
      casemate bundle create gemma.gguf -o gemma/ --name gemma-3-270m --version 1.0.0
      casemate bundle create all-MiniLM-L6-v2/ -o minilm/ --name minilm --version 1.0.0
      casemate bundle create scorer.onnx -o scorer/ --name scorer --version 0.1.0

    What a checkpoint of 'casemate train' says of its data and its privacy
    (training.json, privacy.json) becomes statements about the model in the bundle.

    Next: casemate sign
    """
    from compiler.bundling.create import CreateRequest, create_bundle

    template = options["chat_template"]
    if template is not None and options["chat_template_from_source"]:
        raise click.UsageError("give --chat-template or --chat-template-from-source, not both")
    request = CreateRequest(
        source=source,
        output=options["output"],
        name=options["name"],
        version=options["version"],
        task=options["task"],
        security_epoch=options["epoch"],
        license_file=options["license_file"],
        chat_template_file=template,
        chat_template_from_source=options["chat_template_from_source"],
        context_tokens=options["context"],
        max_sequences=options["max_sequences"],
        not_after=options["not_after"],
        probes=options["probes"],
    )
    with progress("creating the bundle") as relabel:
        try:
            created = create_bundle(request, relabel)
        except OSError as error:
            raise click.ClickException(f"{request.output}: {error.strerror or error}") from error
    if created.note is not None:
        warn(f"no probes were recorded: {created.note}. An appliance will not install it.")
    if created.left_out is not None:
        warn(f"{created.left_out}.")
    emit(as_json, _described(created), fields)


def _described(created: CreatedBundle) -> dict[str, Any]:
    manifest = created.manifest
    return {
        "bundle": str(created.path),
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "context_tokens": manifest.limits.context_tokens,
        "max_sequences": manifest.limits.max_sequences,
        "chat_template": manifest.chat_template is not None,
        "size_bytes": created.size_bytes,
        "probes_recorded": created.probes,
        "attestations": list(created.attestations),
    }


@command.command("show")
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def show(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE holds: manifest, files, and what its models are.

    Everything but the signatures is checked on the way; 'casemate verify' checks those.

    \b
    Example:
      casemate bundle show gemma/ --json
    """
    from casemate.cli.bundle_show import describe, render
    from security.bundle.opening import open_unsigned

    with progress("reading the bundle"), open_unsigned(bundle) as opened:
        data = describe(opened)
    emit(as_json, data, render)
