"""`casemate quantize`: one model file in another format, without a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.output import counted, emit, json_option, warn
from compiler.commands.options import FILE, PATH, converter_option, working


@click.command("quantize")
@click.argument("source", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="New model file to write.")
@click.option("--format", "format_", required=True, metavar="NAME", help="See below.")
@click.option(
    "--target",
    metavar="TARGET",
    help="Processor for 8-bit products.  [default: one that is right on any]",
)
@click.option("--calibration", type=FILE, help="Texts, one a line, for formats that need them.")
@converter_option
@json_option
def command(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Write the model SOURCE in another format to the file OUTPUT.

    \b
    Formats of GGUF: f16, q8_0, q6_k, q5_1, q4_k_m, iq4_nl, ... (llama.cpp's names)
    Formats of ONNX: float32, float16, int8, int8-static, int8-blocks, int4-blocks

    The low-level way: nothing is judged. 'casemate compile' keeps a promise of quality and
    makes a bundle; 'casemate compare' says what a format costs.

    \b
    Examples:
      casemate quantize gemma.gguf --format q4_0 -o gemma-q4_0.gguf
      casemate quantize minilm/ --format int8 --target this -o minilm-int8.onnx
    """
    import os

    from compiler.bundling.assemble import partial_folder, require_free
    from compiler.bundling.formats import named_plan, quantize
    from compiler.bundling.reference import make_reference
    from compiler.bundling.sources import plan_source
    from compiler.bundling.texts import built_in_texts, read_texts
    from compiler.progress import part
    from compiler.source.read import read_source
    from compiler.targets.choosing import choose_target

    require_free(output)
    named = options["target"]
    target = None if named is None else choose_target(named, measured=False)
    given = options["calibration"]
    texts = built_in_texts() if given is None else read_texts(given)
    with working("quantizing", output) as progress, partial_folder(output) as work:
        found = read_source(source)
        plan = plan_source(
            found, work, lambda label: progress(label, 0.0), converter=options["converter"]
        )
        format_plan = named_plan(plan.backend, options["format_"], target)
        reference = make_reference(plan, texts, work, part(progress, 0.0, 0.4))
        made = quantize(
            reference.path,
            work / f"made{reference.path.suffix}",
            format_plan,
            calibration=list(reference.feeds) if given is not None else None,
            threads=len(os.sched_getaffinity(0)),
            progress=part(progress, 0.4, 1.0),
        )
        before = reference.path.stat().st_size
        made.path.chmod(0o644)
        made.path.rename(output)
    notes = plan.export.notes if plan.export is not None else ()
    data = {
        "file": str(output),
        "format": options["format_"].lower(),
        "plan": format_plan.to_dict(),
        "size_bytes": made.size_bytes,
        "size_ratio": round(made.size_bytes / before, 4),
        "unlike": dict(made.unlike),
        "notes": list(notes),
    }
    for note in notes:
        warn(f"{note}.")
    emit(as_json, data, _render)


def _render(data: dict[str, Any]) -> None:
    share = f"{data['size_ratio']:.0%} of what it was made of"
    click.echo(f"{data['file']}: {data['format']}, {data['size_bytes']:,} bytes, {share}")
    if data["unlike"]:
        kinds = sorted(set(data["unlike"].values()))
        tensors = counted(len(data["unlike"]), "tensor", "tensors")
        click.echo(f"{tensors} stayed, or became, {', '.join(kinds)}")
