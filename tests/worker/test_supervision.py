"""Workers that die, hang, misbehave or are told to stop; and what others notice of it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import FailureReason, WorkerError, WorkerGone, WorkFailed
from runtime.worker import launch
from runtime.worker.host import ModelHost
from runtime.worker.supervisor import WorkerProcess
from tests.support.bundles import SignedBundle
from tests.worker.conftest import QUICK

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30.0
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may look into a process that is not dumpable"
)


def long_work() -> worker_pb2.Submit:
    return worker_pb2.Submit(
        tenant=b"t", generate=text_pb2.GenerateRequest(prompt="the cat", max_tokens=200)
    )


def short_work() -> worker_pb2.Submit:
    return worker_pb2.Submit(
        tenant=b"t", generate=text_pb2.GenerateRequest(prompt="the cat", max_tokens=2)
    )


def open_descriptors() -> set[str]:
    # The folder's own descriptor is a stranger in its listing.
    return {link.name for link in Path("/proc/self/fd").iterdir() if link.exists()}


def kill(host: ModelHost, number: signal.Signals = signal.SIGKILL) -> int:
    assert host.pid is not None
    os.kill(host.pid, number)
    return host.pid


async def test_a_killed_worker_fails_its_own_requests_only(
    text_host: ModelHost, bundles: dict[str, SignedBundle]
) -> None:
    other = ModelHost(bundles["embed"].open(), QUICK)
    await other.start()
    victim = text_host.submit(long_work())
    await anext(victim)
    pid = kill(text_host)
    with pytest.raises(WorkerGone) as caught:
        await victim.result()
    assert caught.value.retry_after_ms > 0
    work = worker_pb2.Submit(embed=text_pb2.EmbedRequest(inputs=["the cat"]))
    assert len((await other.submit(work).result()).embed.embeddings) == 1
    await other.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await text_host.until_ready()
    assert text_host.pid != pid
    assert (await text_host.submit(short_work()).result()).usage.completion_tokens == 2


async def test_while_it_is_down_requests_are_refused_with_a_hint(text_host: ModelHost) -> None:
    stream = text_host.submit(long_work())
    kill(text_host)
    with pytest.raises(WorkerGone):
        await stream.result()
    assert not text_host.ready
    with pytest.raises(WorkerGone) as caught:
        text_host.submit(short_work())
    assert caught.value.retry_after_ms >= 100


async def test_a_stopped_worker_is_found_hung_and_replaced(
    bundles: dict[str, SignedBundle],
) -> None:
    text_host = ModelHost(bundles["generate"].open(), replace(QUICK, missed_heartbeats=20))
    await text_host.start()
    victim = text_host.submit(long_work())
    pid = kill(text_host, signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(WorkerGone):
            await victim.result()
        await text_host.until_ready()
    assert text_host.pid != pid
    await text_host.close()


async def test_the_breaker_opens_and_the_trial_closes_the_gap(
    bundles: dict[str, SignedBundle],
) -> None:
    events: list[str] = []
    opened = asyncio.Event()

    def note(event: str) -> None:
        events.append(event)
        if event == "breaker-open":
            opened.set()

    config = replace(QUICK, restart_limit=1, restart_window_seconds=2.0)
    host = ModelHost(bundles["generate"].open(), config, on_event=note)
    await host.start()
    stream = host.submit(long_work())
    kill(host)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(WorkerGone):
            await stream.result()
        await opened.wait()
        assert host.breaker_state.value == "open"
        assert host.retry_after_ms > 1000
        await host.until_ready()
    assert host.breaker_state.value == "half-open"
    assert (await host.submit(short_work()).result()).usage.completion_tokens == 2
    assert events == ["ready", "crashed", "breaker-open", "ready"]
    await host.close()


async def test_drain_lets_running_requests_end_and_refuses_new_ones(
    bundles: dict[str, SignedBundle],
) -> None:
    worker = await WorkerProcess.start(bundles["generate"].open(), QUICK)
    stream = worker.submit(long_work())
    await anext(stream)
    draining = asyncio.create_task(worker.drain(PATIENCE_SECONDS))
    result = await stream.result()
    assert result.usage.completion_tokens == 200
    with pytest.raises(WorkerGone):
        worker.submit(short_work())
    await draining
    assert await worker.closed == 0


async def test_drain_kills_what_does_not_end_in_time(bundles: dict[str, SignedBundle]) -> None:
    worker = await WorkerProcess.start(bundles["generate"].open(), QUICK)
    os.kill(worker.pid, signal.SIGSTOP)
    await worker.drain(0.05)
    assert await worker.closed == -signal.SIGKILL


async def test_one_request_too_many_is_refused_at_once(bundles: dict[str, SignedBundle]) -> None:
    config = replace(QUICK, max_queue=2, max_queue_per_tenant=2)
    worker = await WorkerProcess.start(bundles["generate"].open(), config)
    streams = [worker.submit(long_work()) for _ in range(2)]
    with pytest.raises(WorkFailed) as caught:
        worker.submit(short_work())
    assert caught.value.reason is FailureReason.CAPACITY
    await asyncio.gather(*(stream.result() for stream in streams))
    assert (await worker.submit(short_work()).result()).usage.completion_tokens == 2
    await worker.kill()


async def test_a_tenant_leaves_room_for_others(bundles: dict[str, SignedBundle]) -> None:
    worker = await WorkerProcess.start(bundles["generate"].open(), replace(QUICK, max_queue=4))
    streams = [worker.submit(long_work()) for _ in range(2)]
    with pytest.raises(WorkFailed) as caught:
        worker.submit(short_work())
    assert caught.value.reason is FailureReason.CAPACITY
    other = short_work()
    other.tenant = b"other"
    assert (await worker.submit(other).result()).usage.completion_tokens == 2
    await asyncio.gather(*(stream.result() for stream in streams))
    assert (await worker.submit(short_work()).result()).usage.completion_tokens == 2
    await worker.kill()


async def test_a_request_over_the_frame_limit_is_refused(bundles: dict[str, SignedBundle]) -> None:
    config = replace(QUICK, max_frame_bytes=4096)
    worker = await WorkerProcess.start(bundles["generate"].open(), config)
    work = worker_pb2.Submit(generate=text_pb2.GenerateRequest(prompt="x" * 5000))
    with pytest.raises(WorkFailed, match="too large"):
        worker.submit(work)
    await worker.kill()


async def test_starting_and_killing_leaves_no_descriptor_behind(
    bundles: dict[str, SignedBundle],
) -> None:
    before = open_descriptors()
    for _ in range(3):
        host = ModelHost(bundles["tensor"].open(), QUICK)
        await host.start()
        await host.close()
    await asyncio.sleep(0)
    assert open_descriptors() == before


@needs_root
async def test_the_worker_inherits_neither_environment_nor_descriptors(
    bundles: dict[str, SignedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASEMATE_CANARY", "canary-3f1b")
    stranger = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(stranger, True)
    worker = await WorkerProcess.start(bundles["embed"].open(), QUICK)
    process = Path(f"/proc/{worker.pid}")
    environment = (process / "environ").read_bytes()
    oom_preference = int((process / "oom_score_adj").read_text())
    targets = [str(link.readlink()) for link in (process / "fd").iterdir()]
    await worker.kill()
    os.close(stranger)
    assert b"canary" not in environment
    assert oom_preference > 0
    assert {line.partition(b"=")[0].decode() for line in environment.split(b"\0") if line} == set(
        launch.environment(1)
    )
    allowed = ("/dev/null", "socket:", "/memfd:")
    assert all(target.startswith(allowed) for target in targets)
    # Standard streams, the channel, the graph and the tokenizer.
    assert len(targets) == 6


def test_the_worker_dies_with_the_front(bundles: dict[str, SignedBundle]) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from runtime.worker.settings import WorkerConfig\n"
        "from runtime.worker.supervisor import WorkerProcess\n"
        "from security.bundle.opening import open_unsigned\n"
        "async def main():\n"
        "    bundle = open_unsigned(Path(sys.argv[1]))\n"
        "    worker = await WorkerProcess.start(bundle, WorkerConfig(threads=1))\n"
        "    print(worker.pid, flush=True)\n"
        "    await worker.closed\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(bundles["tensor"].path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        pidfd = os.pidfd_open(int(front.stdout.readline()))
        front.kill()
    readable, _, _ = select.select([pidfd], [], [], PATIENCE_SECONDS)
    os.close(pidfd)
    assert readable


async def test_too_little_memory_fails_the_load_and_nothing_else(
    bundles: dict[str, SignedBundle],
) -> None:
    config = replace(QUICK, memory_limit_mib=24)
    with pytest.raises(WorkerError):
        await ModelHost(bundles["generate"].open(), config).start()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Start a process of tests/support/hostile_worker.py in place of the worker."""
    original = launch._arguments

    def behave(behaviour: str) -> None:
        def arguments(*given: Any) -> list[str]:
            python, _, _, _, *flags = original(*given)
            script = str(ROOT / "tests" / "support" / "hostile_worker.py")
            return [python, script, behaviour, *flags]

        monkeypatch.setattr(launch, "_arguments", arguments)

    return behave


@pytest.mark.parametrize("behaviour", ["oversized", "empty frame", "garbage"])
async def test_a_worker_that_breaks_the_framing_is_killed(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None], behaviour: str
) -> None:
    hostile(behaviour)
    worker = await WorkerProcess.start(bundles["tensor"].open(), QUICK)
    with pytest.raises(WorkerGone):
        await worker.submit(short_work()).result()
    assert worker.death_reason == "it broke the framing"


async def test_messages_about_strangers_are_dropped_and_counted(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None]
) -> None:
    hostile("strangers")
    worker = await WorkerProcess.start(bundles["tensor"].open(), QUICK)
    assert (await worker.submit(short_work()).result()).id == 1
    assert worker.dropped["unknown request"] == 8
    assert worker.dropped["unexpected message"] == 3
    assert worker.ready.context_tokens == 1
    await worker.kill()


@pytest.mark.parametrize("behaviour", ["flood of strangers", "flood of pongs"])
async def test_a_worker_that_floods_the_front_is_killed(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None], behaviour: str
) -> None:
    hostile(behaviour)
    config = replace(QUICK, max_dropped_messages=50)
    worker = await WorkerProcess.start(bundles["tensor"].open(), config)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(WorkerGone):
            await worker.submit(short_work()).result()
    assert worker.death_reason == "it sent too many messages that answer nothing"
    # Nothing of what was sent after that was looked at.
    assert worker.dropped.total() == 51


async def test_a_sign_of_life_counts_only_for_what_was_asked(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None]
) -> None:
    hostile("wrong pongs")
    config = replace(QUICK, missed_heartbeats=3, heartbeat_seconds=0.05)
    worker = await WorkerProcess.start(bundles["tensor"].open(), config)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await worker.closed
    assert worker.death_reason == "it missed 3 heartbeats"
    assert worker.stats().prompt_tokens == 0


async def test_what_the_front_does_not_know_is_not_passed_on(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None]
) -> None:
    hostile("unknown field")
    worker = await WorkerProcess.start(bundles["tensor"].open(), QUICK)
    result = await worker.submit(short_work()).result()
    await worker.kill()
    assert b"secret" not in result.SerializeToString()


async def test_a_worker_that_never_becomes_ready_is_given_up(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None]
) -> None:
    hostile("mute")
    config = replace(QUICK, start_timeout_seconds=0.5)
    with pytest.raises(WorkerError, match="not ready within"):
        await WorkerProcess.start(bundles["tensor"].open(), config)


async def test_a_worker_that_exits_while_starting_is_reported(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None]
) -> None:
    hostile("exits")
    with pytest.raises(WorkerError, match="died while starting"):
        await WorkerProcess.start(bundles["tensor"].open(), QUICK)


async def test_a_worker_that_does_work_but_shows_no_progress_is_killed(
    bundles: dict[str, SignedBundle], hostile: Callable[[str], None]
) -> None:
    hostile("idle")
    worker = await WorkerProcess.start(bundles["tensor"].open(), replace(QUICK, stall_seconds=0.5))
    with pytest.raises(WorkerGone):
        await worker.submit(short_work()).result()
    assert "no progress" in worker.death_reason
