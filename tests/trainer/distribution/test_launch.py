"""Starting the ranks of one machine: their environment, signals, exit codes, one error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from trainer.distribution.launch import launch
from trainer.distribution.lines import EXIT_LOST


def _script(body: str) -> list[str]:
    head = "import json, os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n"
    return [sys.executable, "-c", head + textwrap.dedent(body)]


def test_ranks_see_what_torchrun_would_set(tmp_path: Path) -> None:
    body = f"pathlib.Path({str(tmp_path)!r}, str(rank)).write_text(json.dumps(dict(os.environ)))"
    assert launch(_script(body), 3) == 0
    seen = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    for rank, environ in enumerate(seen):
        assert environ["RANK"] == environ["LOCAL_RANK"] == str(rank)
        assert environ["WORLD_SIZE"] == environ["LOCAL_WORLD_SIZE"] == "3"
        assert environ["MASTER_ADDR"] == "127.0.0.1"
        assert environ["CASEMATE_SUPERVISOR"] == str(os.getpid())
    assert len({environ["MASTER_PORT"] for environ in seen}) == 1
    assert ["CASEMATE_LISTENER" in environ for environ in seen] == [True, False, False]


def test_the_first_rank_inherits_the_socket_where_they_meet() -> None:
    body = """
        import socket
        if rank == 0:
            with socket.socket(fileno=int(os.environ["CASEMATE_LISTENER"])) as listener:
                assert listener.getsockname() == ("127.0.0.1", int(os.environ["MASTER_PORT"]))
                listener.accept()[0].sendall(b"hello")
        else:
            with socket.create_connection(("127.0.0.1", int(os.environ["MASTER_PORT"]))) as peer:
                assert peer.recv(5) == b"hello"
    """
    assert launch(_script(body), 2) == 0


def test_the_code_of_the_rank_that_failed_decides(capfd: pytest.CaptureFixture[str]) -> None:
    # Rank 0 only heard of the failure, and ended first.
    body = f"time.sleep(0.5 * rank); sys.exit({EXIT_LOST} if rank == 0 else 3)"
    assert launch(_script(body), 2) == 3
    assert capfd.readouterr().err == ""


def test_a_killed_rank_is_named_once_and_the_others_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    body = "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(600)"
    assert launch(_script(body), 2) == 128 + signal.SIGKILL
    error = capfd.readouterr().err
    assert error.count("error:") == 1
    assert "rank 1 of 2" in error
    assert "SIGKILL" in error
    assert "Run the same command again" in error


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_reaches_every_rank_once(tmp_path: Path, number: signal.Signals) -> None:
    body = f"""
        heard = []
        signal.signal({int(number)}, lambda *_: heard.append(1))
        pathlib.Path({str(tmp_path)!r}, f"ready-{{rank}}").touch()
        while not heard:
            time.sleep(0.02)
        time.sleep(0.3)
        pathlib.Path({str(tmp_path)!r}, f"heard-{{rank}}").write_text(str(len(heard)))
    """
    code = f"""
        import sys
        sys.path.insert(0, {str(Path.cwd())!r})
        from trainer.distribution.launch import launch
        sys.exit(launch({_script(body)!r}, 2))
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert launcher.poll() is None
    launcher.send_signal(number)
    assert launcher.wait(timeout=60) == 0
    assert [(tmp_path / f"heard-{rank}").read_text() for rank in range(2)] == ["1", "1"]


def test_the_launcher_does_not_load_torch() -> None:
    code = "import sys, trainer.distribution.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
