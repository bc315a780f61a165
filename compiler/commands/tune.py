"""`casemate tune`: search for the best form of a model, and show all that was tried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, warn
from casemate.cli.quality import quality_text
from compiler.commands.options import (
    PATH,
    converter_option,
    promise_of,
    promise_options,
    search_options,
    texts_options,
    tuning_of,
    working,
)
from compiler.commands.results import search_data, search_notes, search_text

if TYPE_CHECKING:
    from compiler.bundling.forms import Form


@click.command("tune")
@click.argument("source", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="New folder for what is found.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="As for 'casemate compile', but one only.  [default: this]",
)
@promise_options
@search_options
@texts_options
@converter_option
@click.option("--work", type=PATH, help="Folder for unfinished work.  [default: beside the output]")
@json_option
def command(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Search for the fastest form of SOURCE within a promised quality.

    SOURCE is anything that can be compiled; a bundle is searched in its first variant. The
    folder OUTPUT gets the chosen model file, the record of the search (compilation.json), a
    page that shows it (compilation.html) and the Pareto picture (front.svg).

    'casemate compile' searches in the same way and puts the result into a bundle, with
    the same record.

    \b
    Examples:
      casemate tune gemma.gguf --calibration notes.txt --quality balanced -o gemma-tuned
      casemate tune minilm/ --for 32 --budget 5m -o minilm-tuned
    """
    from compiler.bundling.assemble import require_free
    from compiler.bundling.tuning import SearchFor, tune_source
    from compiler.targets.choosing import choose_target

    if len(options["targets"]) > 1:
        raise click.UsageError("tune takes one --target; casemate compile takes several")
    require_free(output)
    wanted = SearchFor(
        source=source,
        output=output,
        target=choose_target(*options["targets"] or ("this",)),
        promise=promise_of(options),
        tuning=tuning_of(options),
        calibration=options["calibration"],
        labelled=options["labelled"],
        converter=options["converter"],
        work=options["work"],
    )
    with working("tuning", output, wanted.work_path) as progress:
        form = tune_source(wanted, progress)
    for note in search_notes(form):
        warn(f"{note}.")
    emit(as_json, _described(output, form), _render)


def _described(output: Path, form: Form) -> dict[str, Any]:
    return {
        "output": str(output),
        "format": form.label,
        "plan": form.plan,
        "quality": None if form.quality is None else form.quality.to_dict(),
        "search": search_data(form),
        "search_notes": list(search_notes(form)),
        "files": sorted(path.name for path in output.iterdir()),
    }


def _render(data: dict[str, Any]) -> None:
    click.echo(f"{data['format']}: {quality_text(data['quality'])}")
    click.echo(search_text(data["search"]))
    click.echo("")
    click.echo(f"In {data['output']}: {', '.join(data['files'])}")
    click.echo("A bundle of it is what 'casemate compile' makes with the same options.")
