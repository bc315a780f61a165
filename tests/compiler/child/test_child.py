"""Whatever a child does, the compiler gets its answer or an error that names the cause."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.child.job import run_child
from compiler.child.program import run_program
from compiler.errors import ChildError, ChildKilledError, QuantizationError, SourceError

JOB = "tests.compiler.child.misbehaving"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place for temporary files; empty after every call."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def error_of(how: str) -> str:
    with pytest.raises(ChildError) as caught:
        run_child(JOB, {"how": how})
    return str(caught.value)


def test_a_reply_and_its_progress(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "of ours")
    monkeypatch.setenv("GGML_BACKEND_PATH", "/evil.so")
    told: list[tuple[str, float]] = []
    reply = run_child(
        JOB,
        {"how": "answer"},
        progress=lambda label, fraction: told.append((label, fraction)),
        variables={"GOMP_SPINCOUNT": "3"},
    )
    assert told == [("half", 0.5)]
    assert not {"A_SECRET", "GGML_BACKEND_PATH"} & set(reply["environment"])
    assert reply["environment"]["HF_HUB_OFFLINE"] == "1"
    assert reply["environment"]["GOMP_SPINCOUNT"] == "3"
    # A folder of its own, which is gone.
    assert Path(reply["cwd"]).parent == temporary
    assert list(temporary.iterdir()) == []


def test_a_crash_names_its_signal_and_no_text() -> None:
    message = error_of("crash")
    assert "ended by SIGSEGV" in message
    assert "GGML_ASSERT(n > 0) failed" in message
    assert "secret" not in message
    assert "another" not in message


@pytest.mark.parametrize("how", ["crash", "leave files", "no memory", "wait"])
def test_what_may_pass_is_told_from_what_fails_each_time(how: str) -> None:
    with pytest.raises(ChildKilledError):
        run_child(JOB, {"how": how}, seconds=1.0 if how == "wait" else None)


@pytest.mark.parametrize("how", ["exit", "half an answer", "unforeseen"])
def test_what_fails_each_time_was_not_killed(how: str) -> None:
    with pytest.raises(ChildError) as caught:
        run_child(JOB, {"how": how})
    assert type(caught.value) is ChildError


def test_an_exit_without_an_answer_names_its_status() -> None:
    assert "ended with status 7" in error_of("exit")


def test_an_error_that_nobody_foresaw_names_its_place_and_no_text() -> None:
    message = error_of("anything else")
    assert "failed: KeyError in misbehaving.py, line" in message
    assert "secret" not in message


def test_a_killed_child_names_memory_and_leaves_nothing(temporary: Path) -> None:
    message = error_of("leave files")
    assert "SIGKILL, most likely for want of memory" in message
    assert list(temporary.iterdir()) == []


def test_what_it_prints_is_bounded() -> None:
    message = error_of("shout")
    assert "SIGABRT" in message
    assert len(message) < 1000


def test_half_an_answer_is_none() -> None:
    assert "ended without an answer" in error_of("half an answer")


def test_errors_come_out_as_what_they_are() -> None:
    with pytest.raises(QuantizationError, match="of ours"):
        run_child(JOB, {"how": "ours"})
    with pytest.raises(SourceError, match="of another part"):
        run_child(JOB, {"how": "of another part"})
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_child(JOB, {"how": "full disk"})
    assert caught.value.errno == 28
    assert "not enough memory" in error_of("no memory")
    with pytest.raises(ChildError, match="ModuleNotFoundError"):
        run_child("compiler.nowhere", {})


def test_a_time_limit_ends_it_and_what_it_started() -> None:
    with pytest.raises(ChildError, match=r"took longer than 0\.5 seconds"):
        run_child(JOB, {"how": "wait with a grandchild"}, seconds=0.5)


def test_an_interruption_ends_it(temporary: Path) -> None:
    begun: list[int] = []

    def interrupt(label: str, _fraction: float) -> None:
        begun.append(int(label))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(JOB, {"how": "wait"}, progress=interrupt)
    assert not Path(f"/proc/{begun[0]}").exists()
    assert list(temporary.iterdir()) == []


PARENT = """
import sys
from compiler.child.job import run_child
run_child(sys.argv[1], {"how": "wait"}, progress=lambda label, _: print(label, flush=True))
"""


def test_it_dies_with_its_parent(temporary: Path) -> None:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", PARENT, JOB]
    # A parent that is killed cleans nothing up.
    environment = {**os.environ, "PYTHONPATH": root, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            ended, _, _ = select.select([child], [], [], 30)
        finally:
            os.close(child)
    assert ended


def test_a_program_that_is_not_ours(temporary: Path) -> None:
    script = "import sys; print(input()); sys.exit('the last\\x07 word')"
    lines: list[bytes] = []
    ended = run_program([sys.executable, "-c", script], request=b"hello\n", line=lines.append)
    assert lines == [b"hello\n"]
    assert (ended.status, ended.late, ended.words) == (1, False, "the last? word")
    starter = [sys.executable, "-P", "-m", "compiler.child.parent", str(os.getpid())]
    wait = [sys.executable, "-c", "import signal; signal.pause()"]
    assert run_program([*starter, *wait], seconds=0.5).late
    # Started by another process than it was told, it refuses.
    assert run_program([*starter[:-1], "1", *wait], seconds=30).status == 1
    assert list(temporary.iterdir()) == []
