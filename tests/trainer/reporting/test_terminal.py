"""What is written to a terminal, and to a log without one."""

from __future__ import annotations

import io
import math
from pathlib import Path

from rich.console import Console

from tests.trainer.reporting.runs import plan, step, tell, validation
from trainer.reporting.terminal import TerminalReporter


def told(run_folder: Path, *, terminal: bool = False, **changes: object) -> tuple[str, str]:
    """Tell a whole run; return the output and its last line."""
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, color_system=None
    )
    reporter = TerminalReporter(console)
    tell(reporter, plan(run_folder, **changes))
    reporter.note("a [note] about 3 files")
    reporter.finish({"validation_loss": 1.6, "steps": 50, "finished": True})
    output = console.file.getvalue()  # type: ignore[attr-defined]
    return output, output.rstrip("\n").split("\n")[-1]


def test_a_log_has_one_plain_line_for_each_due_step(tmp_path: Path) -> None:
    output, _ = told(tmp_path)
    lines = [line for line in output.split("\n") if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == [
        "1/50",
        "10/50",
        "20/50",
        "30/50",
        "40/50",
        "50/50",
    ]
    assert "\x1b" not in output
    assert "\r" not in output


def test_a_line_holds_the_figures(tmp_path: Path) -> None:
    output, _ = told(tmp_path)
    line = next(line for line in output.split("\n") if line.startswith("step 30/50"))
    # 20 steps of 0.1 s are left.
    for figure in ("loss 1.", "val 1.8000", "10.2k tok/s", "lr 1.00e-03", "ETA 0:02"):
        assert figure in line
    assert "MFU" not in line


def test_the_heading_says_what_runs(tmp_path: Path) -> None:
    output, _ = told(tmp_path, trainable=1000, ranks=2, strategy="fsdp", tokens_per_step=4096.0)
    heading = output.split("\n")[0]
    assert "tiny" in heading
    assert "803k parameters (1.00k trainable)" in heading
    assert "2 ranks (fsdp)" in heading
    assert "4.10k tokens a step" in heading


def test_validations_and_notes_are_lines(tmp_path: Path) -> None:
    output, last = told(tmp_path)
    assert "validation after step 40: loss 1.6000  perplexity 4.953  (best)" in output
    # A bracket is a bracket, not markup.
    assert last == "a [note] about 3 files"


def test_a_terminal_has_a_live_line_that_ends(tmp_path: Path) -> None:
    output, _ = told(tmp_path, terminal=True)
    assert "50/50" in output
    assert "tok/s" in output
    # The live line is gone and the cursor is shown again.
    assert "\x1b[?25h" in output


def test_mfu_is_shown_where_it_is_known(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    reporter = TerminalReporter(console)
    reporter.start(plan(tmp_path))
    reporter.step(step(1, mfu=0.412))
    assert "MFU 41.2%" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_shown_loss_is_smoothed_and_recovers(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    reporter = TerminalReporter(console)
    reporter.start(plan(tmp_path, log_every_steps=1))
    for number, loss in enumerate((2.0, 1.0, math.nan, 3.0), start=1):
        reporter.step(step(number, loss=loss))
    lines = console.file.getvalue().split("\n")  # type: ignore[attr-defined]
    shown = [line.split("loss ")[1].split()[0] for line in lines if "loss " in line]
    assert shown == ["2.0000", "1.9000", "nan", "3.0000"]


def test_a_worse_validation_is_not_marked(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    reporter = TerminalReporter(console)
    reporter.start(plan(tmp_path))
    reporter.validation(validation(20, best=False))
    assert "(best)" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    reporter = TerminalReporter(console)
    reporter.start(plan(tmp_path, name="a\x1b[2Jb", device="gpu\r"))
    reporter.note("cannot read x\x1b]0;title\x07\n.txt")
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert not set(output) & set("\x1b\x07\r")
    assert "a\ufffd[2Jb" in output
    assert len(output.rstrip("\n").split("\n")) == 2
