"""Inside a worker's sandbox: what must be denied is, and what is needed still works."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import sandbox_child

ROOT = Path(__file__).resolve().parents[2]
DENIED = {errno.EPERM, errno.EACCES}


def run_child(mode: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.sandbox_child", mode],
        cwd=ROOT,
        env={"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert result.returncode == 0, result.stderr
    outcome: dict[str, Any] = json.loads(result.stdout)
    return outcome


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    return run_child("forbidden")


def test_at_least_forty_actions_are_tried() -> None:
    assert len(sandbox_child.FORBIDDEN) >= 40


@pytest.mark.parametrize("action", sandbox_child.FORBIDDEN)
def test_forbidden(action: str, outcomes: dict[str, Any]) -> None:
    assert outcomes[action] in DENIED


def test_actions_are_possible_without_the_sandbox() -> None:
    """The denials are the sandbox's work: outside, the same calls go through."""
    for action in ("read /etc/passwd", "list a directory", "UDP socket", "memory file"):
        descriptor = sandbox_child.FORBIDDEN[action]()
        assert descriptor >= 0
        os.close(descriptor)


def test_a_memory_bomb_stops_at_the_limit() -> None:
    mib = run_child("memory")["mib"]
    assert 0 < mib <= sandbox_child.MEMORY_MIB


def test_a_thread_bomb_stops_at_the_memory_limit() -> None:
    threads = run_child("threads")["threads"]
    assert 0 < threads < sandbox_child.MEMORY_MIB


def test_a_descriptor_bomb_stops_at_the_limit() -> None:
    files = run_child("files")["files"]
    assert 0 < files < sandbox_child.OPEN_FILES


def test_what_a_worker_needs_still_works() -> None:
    outcome = run_child("useful")
    assert outcome["thread"] is True
    assert outcome["content"] == "model"
    assert set(outcome["layers"]) >= {"session", "rlimits", "no_new_privs", "landlock", "seccomp"}


def test_a_layer_that_is_missing_is_refused_unless_given_up_by_name() -> None:
    code = (
        "import sys\n"
        "sys.modules['pyseccomp'] = None\n"
        "from runtime.worker.sandbox import SandboxLimits, enter\n"
        "print(enter(SandboxLimits(256, 32), sys.argv[1:]))\n"
    )

    def run(*allowed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *allowed]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    refused = run()
    assert refused.returncode != 0
    assert "sandbox layer 'seccomp' cannot be put in force" in refused.stderr
    accepted = run("seccomp")
    assert accepted.returncode == 0
    assert "seccomp" not in accepted.stdout
    assert "landlock" in accepted.stdout


def test_a_thread_that_would_escape_is_refused() -> None:
    code = (
        "import threading\n"
        "from runtime.errors import SandboxError\n"
        "from runtime.worker.sandbox import SandboxLimits, enter\n"
        "done = threading.Event()\n"
        "threading.Thread(target=done.wait).start()\n"
        "try:\n    enter(SandboxLimits(256, 32))\n"
        "except SandboxError as error:\n    print(error.layer)\n"
        "done.set()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "landlock"


def test_the_front_that_is_gone_is_noticed() -> None:
    code = (
        "import os\n"
        "from runtime.errors import SandboxError\n"
        "from runtime.worker.sandbox import SandboxLimits, enter\n"
        "try:\n    enter(SandboxLimits(256, 32, parent_pid=os.getpid()))\n"
        "except SandboxError as error:\n    print(error.layer)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "session"
