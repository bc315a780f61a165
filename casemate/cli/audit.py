"""`casemate audit`: check, show, prove and follow an audit log, from its folder alone.

Nothing here needs the appliance, its keys or a network: a copy of the folder and
the log's verifier keys are enough. `verify` checks everything; `show` and `follow`
check the checkpoint's signatures but print entries as they are stored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.audit_folder import (
    format_time,
    open_log,
    open_log_of,
    parse_since,
    read_file,
    read_vkeys,
    signers,
)
from casemate.cli.output import counted, emit, json_option, table
from casemate.cli.visible import json_text, one_line

if TYPE_CHECKING:
    from security.audit.entry import AuditEntry
    from security.audit.note import VerifierKey
    from security.audit.published import PublishedLog

PROGRESS_AFTER_SECONDS = 2.0
FOLLOW_POLL_SECONDS = 0.25


def _folder_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument(
        "folder", default="audit", type=click.Path(path_type=Path, file_okay=False)
    )(function)


def _vkeys_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--vkeys",
        default="trust/log.vkeys",
        show_default=True,
        type=click.Path(path_type=Path, dir_okay=False),
        help="The log's verifier keys.",
    )(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Verify, show, prove and follow the audit log.

    FOLDER is the log's folder, ./audit if not given; the verifier keys come from
    ./trust/log.vkeys. So in the folder of a trust domain:

    \b
        casemate audit verify
        casemate audit show --kind denied --since 2h
        casemate audit prove 41 > entry-41.tlog-proof
        casemate audit follow
    """


@command.command()
@_folder_argument
@_vkeys_option
@click.option(
    "--held",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A checkpoint kept outside, or a receipt or proof that holds one.",
)
@json_option
def verify(folder: Path, vkeys: Path, held: Path | None, as_json: bool) -> None:
    """Check every entry, every hash and every signature of a log.

    Exits 1 and names the first finding if anything is wrong. A log that was cut or
    rewritten by someone with its keys is found only against a checkpoint held
    outside: keep one from time to time, or use one of your receipts.

    \b
        casemate audit verify audit --held checkpoint-of-last-month
    """
    from security.audit.checkpoint import verify_checkpoint
    from security.audit.verify import verify_log
    from security.errors import AuditError

    keys = read_vkeys(vkeys)
    outside = _held_checkpoint(held) if held else None
    if outside is not None:
        with contextlib.suppress(AuditError):  # what is wrong with it, verify_log says below
            open_log_of(folder, keys, verify_checkpoint(outside, keys).checkpoint.size)
    with _progress("verifying") as progress:
        report = verify_log(folder, keys, held=outside, progress=progress)
    head = report.head.checkpoint
    data = {
        "ok": True,
        "origin": head.origin,
        "entries": report.entries,
        "root": head.root.hex(),
        "signed_by": signers(report.head.signed_by),
        "signed_at": format_time(report.head.signed_at * 1000) if report.head.signed_at else None,
        "held_size": report.held.checkpoint.size if report.held else None,
    }
    emit(as_json, data, _render_report)


def _render_report(data: dict[str, Any]) -> None:
    origin = one_line(data["origin"])
    entries = counted(data["entries"], "entry", "entries")
    click.echo(f"ok: {entries} of {origin}, all hashes and signatures hold")
    click.echo(f"  root       {data['root']}")
    click.echo(f"  signed by  {', '.join(data['signed_by'])}")
    if data["signed_at"]:
        click.echo(f"  signed at  {data['signed_at']}")
    if data["held_size"] is None:
        click.echo("  not checked: whether the log was cut or rewritten; give --held for that")
    else:
        held = counted(data["held_size"], "entry", "entries")
        click.echo(f"  it extends the held checkpoint over {held}")


@command.command()
@_folder_argument
@_vkeys_option
@click.option("--principal", help="Only of callers whose SPIFFE id holds this.")
@click.option("--model", help="Only of this model.")
@click.option(
    "--kind", type=click.Choice(["admitted", "completed", "denied", "operation"]), help="Only this."
)
@click.option("--since", help="Only newer: 30m, 2h, 7d, or a date such as 2026-11-23T08:00.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(min=1), help="The last so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def show(
    *,
    folder: Path,
    vkeys: Path,
    principal: str | None,
    model: str | None,
    kind: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the newest entries that match, oldest first.

    \b
        casemate audit show --principal device/sensor-7 --since 1d --json | jq .status
    """
    log = open_log(folder, read_vkeys(vkeys))
    oldest = parse_since(since, datetime.now(UTC)) if since else 0
    found: list[tuple[int, AuditEntry]] = []
    for index, entry in _newest_first(log):
        if (
            entry.time_ms >= oldest
            and (principal is None or principal in entry.principal)
            and model in (None, entry.model)
            and kind in (None, entry.kind)
        ):
            found.append((index, entry))
            if len(found) == limit:
                break
    found.reverse()
    if as_json:
        for index, entry in found:
            click.echo(_json_line(index, entry))
    else:
        table(_HEADINGS, [_row(index, entry) for index, entry in found])


@command.command()
@click.argument("index", type=click.IntRange(min=0))
@click.option(
    "--folder",
    default="audit",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The log's folder.",
)
@_vkeys_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here instead of standard output.",
)
def prove(index: int, folder: Path, vkeys: Path, output: Path | None) -> None:
    """Write the proof that entry INDEX is in the log, as a C2SP tlog-proof.

    \b
        casemate audit prove 41 -o entry-41.tlog-proof
    """
    from security.errors import UsageError

    proof = open_log(folder, read_vkeys(vkeys)).prove(index).encode()
    if output is None:
        click.echo(proof, nl=False)
        return
    try:
        output.write_text(proof, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error


@command.command()
@_folder_argument
@_vkeys_option
@click.option(
    "--lines", "-n", default=10, show_default=True, type=click.IntRange(min=0), help="Older ones."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def follow(folder: Path, vkeys: Path, lines: int, as_json: bool) -> None:
    """Print entries as they are published, until Ctrl-C.

    Ends with an error if the log is ever cut or contradicts what was seen before.

    \b
        casemate audit follow --json | jq -r 'select(.kind == "denied") | .principal'
    """
    keys = read_vkeys(vkeys)
    if not as_json:
        click.echo(_FOLLOW_FORMAT.format(*(heading.upper() for heading in _HEADINGS)).rstrip())
    with contextlib.suppress(KeyboardInterrupt):
        for index, entry in _follow(folder, keys, lines):
            if as_json:
                click.echo(_json_line(index, entry))
            else:
                click.echo(_FOLLOW_FORMAT.format(*_row(index, entry)).rstrip())


def _follow(
    folder: Path, keys: tuple[VerifierKey, ...], lines: int
) -> Iterator[tuple[int, AuditEntry]]:
    """Yield entries for ever, checking that each checkpoint extends the one before."""
    import time

    from security.audit.entry import parse_entry
    from security.errors import AuditError

    log = open_log(folder, keys)
    position = max(0, log.size - lines)
    while True:
        for index, data in log.entries(position):
            if not log.leaf_is(index, data):
                raise AuditError(f"entry {index} does not have its stated hash")
            yield index, parse_entry(data)
        position = log.size
        seen = log.head.checkpoint
        while log.head.checkpoint == seen:
            time.sleep(FOLLOW_POLL_SECONDS)
            log = open_log(folder, keys)
        if log.size < seen.size or log.root(seen.size) != seen.root:
            raise AuditError("the log was cut or rewritten while it was followed")


def _held_checkpoint(path: Path) -> bytes:
    """Return the signed note in a checkpoint, tlog-proof or receipt file."""
    from security.audit import receipt
    from security.audit.proof import HEADER, parse_proof

    data = read_file(path, "the held checkpoint", limit_bytes=1 << 20)
    if data.startswith(b"{"):
        return receipt.parse(data).proof.checkpoint
    if data.startswith(HEADER.encode()):
        return parse_proof(data.decode(errors="replace")).checkpoint
    return data


def _newest_first(log: PublishedLog) -> Iterator[tuple[int, AuditEntry]]:
    from security.audit.entry import parse_entry
    from security.audit.tiles import TILE_WIDTH

    for number in range((log.size - 1) // TILE_WIDTH, -1, -1):
        entries = log.bundle(number)
        for offset in range(len(entries) - 1, -1, -1):
            yield number * TILE_WIDTH + offset, parse_entry(entries[offset])


_HEADINGS = ["index", "time", "kind", "status", "principal", "model", "detail"]
_FOLLOW_FORMAT = "{:<8}  {:<20}  {:<9}  {:<18}  {:<48}  {:<20}  {}"


def _row(index: int, entry: AuditEntry) -> list[str]:
    tokens = f"{entry.prompt_tokens}+{entry.completion_tokens} tokens"
    counted = tokens if entry.prompt_tokens or entry.completion_tokens else ""
    words = [entry.detail, counted, entry.duration_bucket, *entry.verdicts]
    model = f"{entry.model}@{entry.version}" if entry.version else entry.model
    cells = [
        str(index),
        format_time(entry.time_ms),
        entry.kind,
        entry.status or "-",
        entry.principal or "-",
        model or "-",
        " ".join(filter(None, words)),
    ]
    # What a client may have chosen must not steer the terminal, nor look like a row.
    return [one_line(cell) for cell in cells]


def _json_line(index: int, entry: AuditEntry) -> str:
    return json_text({"index": index, **json.loads(entry.encode())})


@contextlib.contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal once the work has taken two seconds."""
    import sys
    import time

    started = time.monotonic()
    bar: Any = None
    task: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar, task
        if bar is None:
            if not sys.stderr.isatty() or time.monotonic() - started < PROGRESS_AFTER_SECONDS:
                return
            from rich.progress import Progress

            from casemate.cli.output import console

            bar = Progress(console=console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(label, total=total)
        bar.update(task, completed=done)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()
