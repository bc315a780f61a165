"""`casemate compile`: from a checkpoint or any model file to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, fields, json_option, table, warn
from casemate.cli.quality import quality_text
from compiler.commands.options import (
    PATH,
    bundle_options,
    default_name,
    promise_of,
    promise_options,
    request_options,
    require_name,
    require_version,
    search_options,
    texts_options,
    tuning_of,
    working,
)
from compiler.commands.results import search_data, search_notes, search_text

if TYPE_CHECKING:
    from compiler.bundling.arranging import CompiledVariant
    from compiler.bundling.compile import Compiled, CompileRequest


@click.command("compile")
@click.argument("source", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="New bundle directory to make.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="this, a name that 'casemate targets' lists, or a .toml file; may be given again.  "
    "[default: this]",
)
@promise_options
@click.option(
    "--tune/--no-tune",
    default=True,
    help="Search for the fastest form, or take the default of the model's kind.",
)
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    help="This format, without a search; 'casemate quantize --help' lists them.",
)
@search_options
@texts_options
@click.option(
    "--public-texts",
    is_flag=True,
    help="The texts given hold nobody's private data: a privacy claim of SOURCE stays.",
)
@click.option("--work", type=PATH, help="Folder for unfinished work.  [default: beside the bundle]")
@click.option("--name", help="The model's name.  [default: the output's]")
@click.option("--version", default="1.0.0", show_default=True, help="Semantic version.")
@bundle_options
@json_option
def command(source: Path, as_json: bool, **options: Any) -> None:
    """Compile SOURCE into a bundle that is fast on a target at a promised quality.

    SOURCE is a checkpoint of 'casemate train', a Hugging Face directory, an ONNX file, a
    GGUF file, or a bundle. Weights are read from safetensors only.

    \b
    Examples:
      casemate compile runs/stories/final --no-tune -o stories/
      casemate compile gemma.gguf --calibration notes.txt --max-kl 0.07 -o gemma/
      casemate compile minilm/ --target x86-64-v3 --target armv8.2-dotprod -o minilm-edge/
      casemate compile runs/intents/final --labelled test.tsv --max-accuracy-drop 0.01 -o intents

    Several targets give several variants; the appliance runs the first that its processor
    satisfies. Interrupted work goes on where it was when the same command is run again.

    Next: casemate sign
    """
    from compiler.bundling.compile import compile_bundle

    request = _request(source, options)
    with working("compiling", request.bundle.output, request.work_path) as progress:
        made = compile_bundle(request, progress)
    for variant in made.variants:
        for note in (variant.form.note, *search_notes(variant.form)):
            if note is not None:
                warn(f"{variant.id}: {note}.")
    if made.bundle.note is not None:
        warn(f"no probes were recorded: {made.bundle.note}. An appliance will not install it.")
    for note in made.bundle.notes:
        warn(f"{note}.")
    if made.bundle.left_out is not None:
        warn(f"{made.bundle.left_out}.")
    if (needs := made.variants[-1].cpu) is not None:
        warn(
            f"the bundle runs on processors of {needs} alone; another --target adds a variant for "
            "others, and x86-64-v3 or armv8.2-dotprod one for nearly all."
        )
    emit(as_json, described(made), _render)


def _request(source: Path, options: dict[str, Any]) -> CompileRequest:
    from compiler.bundling.compile import CompileRequest
    from compiler.bundling.request import CreateRequest
    from compiler.targets.choosing import choose_target

    if options["format_"] is not None and _given("tune") and options["tune"]:
        raise click.UsageError("give --format or --tune, not both")
    output = options["output"]
    searched = options["tune"] and options["format_"] is None
    return CompileRequest(
        bundle=CreateRequest(
            source=source,
            output=output,
            name=require_name(options["name"] or default_name(output.absolute())),
            version=require_version(options["version"]),
            **request_options(options),
        ),
        targets=tuple(
            choose_target(text, measured=searched) for text in options["targets"] or ("this",)
        ),
        promise=promise_of(options),
        format=options["format_"],
        tuning=tuning_of(options) if searched else None,
        calibration=options["calibration"],
        labelled=options["labelled"],
        public_texts=options["public_texts"],
        work=options["work"],
    )


def _given(name: str) -> bool:
    """Tell whether an option was typed and not left to its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def described(made: Compiled) -> dict[str, Any]:
    """Return what was made, for --json."""
    manifest = made.bundle.manifest
    return {
        "bundle": str(made.bundle.path),
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "context_tokens": manifest.limits.context_tokens,
        "size_bytes": made.bundle.size_bytes,
        "probes_recorded": made.bundle.probes,
        "attestations": list(made.bundle.attestations),
        "notes": list(made.bundle.notes),
        "left_out": made.bundle.left_out,
        "variants": [_variant(variant) for variant in made.variants],
    }


def _variant(variant: CompiledVariant) -> dict[str, Any]:
    form = variant.form
    return {
        "id": variant.id,
        "needs": variant.cpu,
        "targets": [target.name for target in variant.targets],
        "format": form.label,
        "tuned": form.record is not None,
        "quality": None if form.quality is None else form.quality.to_dict(),
        "in_float": form.plan.get("excluded", []),
        "note": form.note,
        "search": search_data(form),
        "search_notes": list(search_notes(form)),
    }


def _render(data: dict[str, Any]) -> None:
    told = ("variants", "notes", "left_out")
    shown = {key: value for key, value in data.items() if key not in told}
    fields({**shown, "size_bytes": f"{data['size_bytes']:,}"})
    click.echo("")
    table(
        ["variant", "needs", "format", "quality"],
        [
            [v["id"], v["needs"] or "any cpu", v["format"], quality_text(v["quality"])]
            for v in data["variants"]
        ],
    )
    for variant in data["variants"]:
        if variant["search"] is not None:
            click.echo("")
            click.echo(f"{variant['id']}: {search_text(variant['search'])}")
    click.echo("")
    click.echo(f"Next: casemate sign {data['bundle']}")
