"""`casemate bundle`: create bundles and look inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, fields, json_option, progress, warn
from compiler.commands.options import bundle_options, request_options, working

if TYPE_CHECKING:
    from compiler.bundling.create import CreatedBundle


@click.group("bundle")
def command() -> None:
    """Create bundles and look inside them.

    A bundle is a directory with a model, everything needed to serve it, and (after
    'casemate sign') two signatures over all of it.
    """


@command.command("create")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="New directory to make."
)
@click.option("--name", required=True, help="The model's name: lower case, digits, '.', '_', '-'.")
@click.option("--version", required=True, help="Semantic version, such as 1.0.0.")
@bundle_options
@json_option
def create(source: Path, as_json: bool, **options: Any) -> None:
    """Make a bundle of SOURCE: a GGUF or ONNX file, or a model directory.

    Directories may be in sentence-transformers or Hugging Face layout, with weights as
    safetensors (exported here) or with an ONNX file. The low-level way: the model is not
    quantized. 'casemate compile' makes it fast for a processor.

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

    request = CreateRequest(
        source=source,
        output=options["output"],
        name=options["name"],
        version=options["version"],
        **request_options(options),
    )
    with working("creating the bundle", request.output) as shown:
        created = create_bundle(request, lambda label: shown(label, 0.0))
    if created.note is not None:
        warn(f"no probes were recorded: {created.note}. An appliance will not install it.")
    for note in created.notes:
        warn(f"{note}.")
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
        "notes": list(created.notes),
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
