"""`casemate targets`: the machines that a model can be compiled for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, progress, table

if TYPE_CHECKING:
    from casemate.cpu import CpuFeatures
    from compiler.targets.target import Target

_GIB = 1 << 30


@click.command("targets")
@json_option
def command(as_json: bool) -> None:
    """List the targets to compile for, and which of them this machine satisfies.

    'this' is the machine itself; how fast it reads memory is measured, which takes about a
    second. Any other machine can be described in a .toml file with the same fields:
    arch, level, features, cores, memory_bytes and bandwidth_gb_s.

    \b
    Examples:
      casemate targets
      casemate targets --json | jq '.targets[] | select(.satisfied)'

    Next: casemate compile --target NAME
    """
    from casemate.cpu import detect
    from compiler.targets.choosing import named_targets, this_machine

    cpu = detect()
    with progress("measuring how fast memory is read"):
        found = [this_machine(cpu), *named_targets().values()]
    data = {
        "model_name": cpu.model_name,
        "targets": [_described(target, cpu) for target in found],
    }
    emit(as_json, data, _render)


def _described(target: Target, cpu: CpuFeatures) -> dict[str, Any]:
    missing = sorted(target.instructions - cpu.features) if target.arch == cpu.arch else []
    return {
        **target.to_dict(),
        "satisfied": target.runs_on(cpu),
        "missing": [target.arch] if target.arch != cpu.arch else missing,
    }


def _render(data: dict[str, Any]) -> None:
    rows = []
    for one in data["targets"]:
        lacks = f"no, it lacks {', '.join(one['missing'][:3])}"
        rows.append(
            [
                one["name"],
                one["level"] or one["arch"],
                str(one["cores"]),
                f"{one['memory_bytes'] / _GIB:.1f} GiB",
                f"{one['bandwidth_gb_s']:g} GB/s",
                "yes" if one["satisfied"] else lacks,
            ]
        )
    table(["target", "level", "cores", "memory", "bandwidth", "runs here"], rows)
