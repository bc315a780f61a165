"""`casemate receipt`: check a receipt offline, and say what it proves and what not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.audit_folder import (
    UNPUBLISHED,
    format_time,
    open_log_of,
    read_file,
    read_text,
    read_vkeys,
    signers,
)
from casemate.cli.output import counted, emit, json_option
from casemate.cli.visible import one_line

if TYPE_CHECKING:
    from security.audit.receipt import VerifiedReceipt

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Verify a receipt offline.

    \b
        casemate receipt verify answer.receipt --vkeys log.vkeys
    """


@command.command()
@click.argument("file", type=_PATH)
@click.option("--vkeys", required=True, type=_PATH, help="The log's verifier keys.")
@click.option("--prompt", help="The prompt you sent, to check that the receipt is about it.")
@click.option("--prompt-file", type=_PATH, help="A file that holds the prompt.")
@click.option("--answer-file", type=_PATH, help="A file that holds the answer you got.")
@click.option(
    "--audit",
    type=click.Path(path_type=Path, file_okay=False),
    help="A copy of the log's folder: also check that it still holds the entry.",
)
@json_option
def verify(
    *,
    file: Path,
    vkeys: Path,
    prompt: str | None,
    prompt_file: Path | None,
    answer_file: Path | None,
    audit: Path | None,
    as_json: bool,
) -> None:
    """Check that the log recorded your request, with nothing but the log's public keys.

    With the prompt and the answer it also checks that the record is about exactly
    those texts; one newline at the end of a file is ignored. Prefer --prompt-file:
    other users of this machine may see --prompt.

    \b
        casemate receipt verify answer.receipt --vkeys log.vkeys \\
            --prompt-file prompt.txt --answer-file answer.txt
    """
    from security.audit.receipt import check_answer, check_request, verify_receipt
    from security.errors import UsageError

    if prompt is not None and prompt_file is not None:
        raise UsageError("give --prompt or --prompt-file, not both")
    receipt = verify_receipt(read_file(file, "the receipt"), read_text(vkeys, "the log's keys"))
    request = prompt.encode() if prompt is not None else None
    if prompt_file is not None:
        request = read_file(prompt_file, "the prompt")
    answer = read_file(answer_file, "the answer") if answer_file is not None else None
    if request is not None and not _is_about(check_request, receipt, request):
        _refuse("the receipt is genuine, but it is not about this prompt", receipt)
    if answer is not None and not _is_about(check_answer, receipt, answer):
        _refuse("the receipt is genuine, but it is not about this answer", receipt)
    if audit is not None:
        _check_folder(receipt, audit, vkeys)
    data = _result(receipt, request is not None, answer is not None, audit is not None)
    emit(as_json, data, _render)


def _is_about(
    check: Callable[[VerifiedReceipt, Sequence[bytes]], bool], receipt: VerifiedReceipt, text: bytes
) -> bool:
    """Whether a file's text is the one recorded, but for a newline that a shell put at its end."""
    return check(receipt, [text]) or (
        text.endswith(b"\n") and check(receipt, [text.removesuffix(b"\n")])
    )


def _refuse(reason: str, receipt: VerifiedReceipt) -> None:
    from security.errors import AuditError

    raise AuditError(f"{reason} (entry {receipt.index} of {receipt.head.checkpoint.origin})")


def _check_folder(receipt: VerifiedReceipt, folder: Path, vkeys: Path) -> None:
    """Check that a log's folder extends the receipt's checkpoint and holds its entry."""
    head = receipt.head.checkpoint
    log = open_log_of(folder, read_vkeys(vkeys), head.size)
    if log.head.checkpoint.origin != head.origin:
        _refuse("the folder holds another log than the receipt's", receipt)
    if log.size < head.size:
        _refuse(
            f"the folder's log has {log.size} entries and the receipt's {head.size}: {UNPUBLISHED}",
            receipt,
        )
    if log.root(head.size) != head.root or not log.leaf_is(receipt.index, receipt.entry.encode()):
        _refuse("the folder's log was rewritten: it does not extend the receipt's", receipt)
    log.prove(receipt.index)


def _result(receipt: VerifiedReceipt, request: bool, answer: bool, folder: bool) -> dict[str, Any]:
    import json

    return {
        "ok": True,
        "origin": receipt.head.checkpoint.origin,
        "index": receipt.index,
        "tree_size": receipt.tree_size,
        "signed_by": signers(receipt.head.signed_by),
        "signed_at": format_time(receipt.head.signed_at * 1000) if receipt.head.signed_at else None,
        "request_checked": request,
        "answer_checked": answer,
        "folder_checked": folder,
        "recorded_at": format_time(receipt.entry.time_ms),
        "entry": json.loads(receipt.entry.encode()),
    }


def _render(data: dict[str, Any]) -> None:
    entry = data["entry"]
    model = f"{entry.get('model', '?')} {entry.get('version', '')}".strip()
    click.echo(f"ok: entry {data['index']} of the log {one_line(data['origin'])}")
    for name, value in (
        ("who", entry.get("principal")),
        ("what", entry.get("method")),
        ("model", model if entry.get("model") else None),
        ("bundle", entry.get("bundle_digest")),
        ("policy", entry.get("policy_digest")),
        ("result", entry.get("status")),
        ("when", data["recorded_at"]),
    ):
        if value:
            click.echo(f"  {name:<7} {one_line(value)}")
    click.echo("proven:")
    click.echo(
        f"  - the log signed a record of {counted(data['tree_size'], 'entry', 'entries')} "
        f"({', '.join(data['signed_by'])}), and this entry is one of them"
    )
    if data["request_checked"]:
        click.echo("  - the entry is about exactly this prompt")
    if data["answer_checked"]:
        click.echo("  - the entry is about exactly this answer")
    if data["folder_checked"]:
        click.echo(
            "  - the folder's log still holds the entry and extends the receipt's checkpoint"
        )
    click.echo("not proven:")
    if not data["request_checked"]:
        click.echo("  - what was asked (give --prompt-file)")
    if not data["answer_checked"]:
        click.echo("  - what was answered (give --answer-file)")
    if not data["folder_checked"]:
        click.echo("  - that the log still holds the entry (give --audit)")
    click.echo("  - that the appliance ran the model it names: the entry is the appliance's word")
    click.echo("  - that everyone is shown the same log: compare checkpoints with others")
