"""`casemate infer`: call a model by the Open Inference Protocol."""

from __future__ import annotations

import json
from typing import Any

import click

from casemate.cli.connection import Connection, connected, connection_options, text_argument
from casemate.cli.output import emit, json_option
from casemate.cli.visible import one_line
from security.errors import UsageError


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME[:TYPE]=JSON",
    help='A tensor as nested JSON lists, such as x:FP32=[[1,2]]; "-" reads it from stdin.',
)
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="Default: all outputs.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=JSON", help="Repeatable.")
@click.option("--version", default="", help="A loaded version; default: the live one.")
@connection_options
@json_option
def command(
    *,
    connection: Connection,
    model: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    parameters: tuple[str, ...],
    version: str,
    as_json: bool,
) -> None:
    """Call MODEL with tensors.

    \b
    Examples:
      casemate infer digits --input image:FP32='[[0.0, 0.5, 1.0]]'
      casemate infer gemma-3-270m --input text_input='["The sea"]' --parameter max_tokens=8
    """
    tensors = [parse_input(text) for text in inputs]
    chosen = dict(_parameter(text) for text in parameters)
    with connected(connection) as client:
        result = client.infer(model, tensors, outputs=outputs, parameters=chosen, version=version)
    data = {
        "model": result.answered.model,
        "version": result.answered.version,
        "request_id": result.answered.request_id,
        "outputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "data": _plain(tensor.nested()),
            }
            for tensor in result.outputs
        ],
    }
    emit(as_json, data, _render)


def parse_input(text: str) -> Any:
    """Read NAME[:TYPE]=JSON into a tensor.

    Raises:
        UsageError: it is malformed; the message names the input.
    """
    from casemate.client.tensors import Tensor, guess_datatype

    left, equals, value = text.partition("=")
    name, _, datatype = left.partition(":")
    if not equals or not name:
        raise UsageError("--input: write NAME=JSON or NAME:TYPE=JSON")
    nested = _json(f"--input {name}", text_argument(value))
    return Tensor.from_nested(name, datatype or guess_datatype(nested), nested)


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError("--parameter: write NAME=JSON")
    parsed = _json(f"--parameter {name}", value)
    if not isinstance(parsed, bool | int | float | str):
        raise UsageError(f"--parameter {name}: a number, a text, true or false")
    return name, parsed


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{what}: the value is no JSON") from error


def _plain(value: Any) -> Any:
    """Return nested data with bytes as text, for JSON."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _render(data: dict[str, Any]) -> None:
    for output in data["outputs"]:
        click.echo(f"{one_line(output['name'])} {output['datatype']} {output['shape']}")
        click.echo(f"  {one_line(json.dumps(output['data'], ensure_ascii=False))}")
