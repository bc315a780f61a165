"""The ranks of a run, connected: sums over them, messages between them, and their end.

    with connect(resolve(os.environ), device, failure_seconds=15) as group:
        group.sum_(counts)

One rank needs no process group and gets none, unless FSDP asks for one. With several, a
watch runs beside the work (see `watch`): when a rank dies or hangs, the others end with
one error that names it.

How an error ends the ranks: the first rank that fails raises its error, which its command
prints; it tells the watch, and the other ranks end without a word of their own. An error
of a collective ("connection closed by peer") is only the echo of a failure elsewhere, so
the rank that gets one first waits for the watch to say what really happened.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

# Where torch keeps their types; torch.distributed only passes the names on.
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from trainer.distribution.channel import Channel
from trainer.distribution.environment import Ranks
from trainer.distribution.lines import RESUME_HINT
from trainer.distribution.watch import Watch
from trainer.errors import RankError

# How long the ranks may take to find one another: machines start at different times.
MEET_SECONDS: Final = 300.0
# Rank 0 exports and evaluates while the others wait; dead ranks are the watch's business.
_COLLECTIVE_SECONDS: Final = 6 * 3600.0
_ECHO: Final = re.compile(
    r"gloo|nccl|connection (?:closed|reset|refused)|broken pipe|socket|peer|process ?group",
    re.IGNORECASE,
)


class Group:
    """The ranks of a run, seen from one of them.

    Attributes:
        rank: this rank.
        world: number of ranks.
        device: where tensors of `sum_` and `max_` are.
        connected: whether there is a process group (with one rank, only if asked for).
        control: messages of the main thread.
        checkpoint: messages of the thread that writes checkpoints.
    """

    def __init__(
        self,
        ranks: Ranks,
        device: torch.device,
        control: Channel,
        checkpoint: Channel,
    ) -> None:
        self.rank = ranks.rank
        self.world = ranks.world
        self.device = device
        self.control = control
        self.checkpoint = checkpoint

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    @property
    def connected(self) -> bool:
        """Whether there is a process group."""
        return self.control.group is not None

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` (on `device`, the same shape everywhere) by its sum over ranks."""
        if self.connected:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its largest value over ranks."""
        if self.connected:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.control.barrier()

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, of JSON types, on every rank."""
        return self.control.broadcast(value)

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, of JSON types, on every rank."""
        return self.control.gather(value)


@contextmanager
def connect(
    ranks: Ranks,
    device: torch.device,
    failure_seconds: float,
    *,
    always: bool = False,
    resume_hint: str = RESUME_HINT,
    meet_seconds: float = MEET_SECONDS,
) -> Iterator[Group]:
    """Connect the ranks for as long as the context lives.

    Args:
        ranks: who this process is.
        device: "cpu", or the GPU of this rank ("cuda:<local rank>").
        failure_seconds: a rank silent for so long counts as lost.
        always: make a process group even for a single rank, as FSDP needs.
        resume_hint: what the error about a lost rank tells people to do.
        meet_seconds: how long the ranks may take to find one another.

    Raises:
        RankError: ranks did not come, or this rank lost its connection to them.
    """
    if ranks.world == 1:
        yield from _alone(ranks, device, always)
        return
    store = _meet(ranks, meet_seconds)
    watch = Watch(lambda: _client(ranks, meet_seconds), ranks, failure_seconds, resume_hint)
    watch.start()
    try:
        _wait_for_all(ranks, store, meet_seconds)
        group = _initialize(ranks, device, store)
        yield group
        # Nobody stops answering before all are done, ...
        group.barrier()
    except BaseException as error:
        watch.give_up(error, echo=_may_be_echo(error))
        raise
    watch.stop()
    # ... and rank 0, which may serve the store, leaves when no watch needs it any more.
    group.barrier()
    dist.destroy_process_group()


def _alone(ranks: Ranks, device: torch.device, always: bool) -> Iterator[Group]:
    if not always:
        yield Group(ranks, device, Channel(0, 1, None), Channel(0, 1, None))
        return
    group = _initialize(ranks, device, HashStore())
    try:
        yield group
    finally:
        dist.destroy_process_group()


def _initialize(ranks: Ranks, device: torch.device, store: Store) -> Group:
    """Make the process groups: the default one, and a gloo group for each channel."""
    if ranks.address.startswith("127.") or ranks.world == 1:
        # All ranks are on this machine: their sockets need not be open to any other.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=timedelta(seconds=_COLLECTIVE_SECONDS),
    )
    control, checkpoint = (
        Channel(
            ranks.rank,
            ranks.world,
            dist.new_group(backend="gloo", timeout=timedelta(seconds=_COLLECTIVE_SECONDS)),
        )
        for _ in range(2)
    )
    return Group(ranks, device, control, checkpoint)


def _meet(ranks: Ranks, meet_seconds: float) -> Store:
    """Open the store where the ranks meet; rank 0 serves it unless the launcher does."""
    serve = ranks.is_first and not ranks.hosted
    try:
        store = TCPStore(
            ranks.address,
            ranks.port,
            is_master=serve,
            wait_for_workers=False,
            timeout=timedelta(seconds=meet_seconds),
            master_listen_fd=ranks.listener if serve else None,
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(_no_meeting(ranks, serve)) from error
    return _of_this_run(ranks, store)


def _client(ranks: Ranks, meet_seconds: float) -> Store:
    """Open one more connection to the store, for the watch alone."""
    timeout = timedelta(seconds=meet_seconds)
    try:
        store = TCPStore(
            ranks.address, ranks.port, is_master=False, wait_for_workers=False, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(_no_meeting(ranks, False)) from error
    return PrefixStore("watch", _of_this_run(ranks, store))


def _of_this_run(ranks: Ranks, store: Store) -> Store:
    """torchrun keeps one store over restarts: what an earlier attempt wrote must not count."""
    return PrefixStore(f"casemate/{ranks.attempt}", store)


def _no_meeting(ranks: Ranks, serve: bool) -> str:
    place = f"{ranks.address}:{ranks.port}"
    if serve:
        return (
            f"rank 0 cannot listen at {place}, where the ranks meet: the port is taken, or the "
            "address is not this machine's. Set MASTER_PORT or MASTER_ADDR"
        )
    return (
        f"rank {ranks.rank} (on {socket.gethostname()}) cannot reach rank 0 at {place}: it was "
        "not started or has ended, or a firewall is between. Check MASTER_ADDR and MASTER_PORT"
    )


def _wait_for_all(ranks: Ranks, store: Store, meet_seconds: float) -> None:
    names = [f"here/{rank}" for rank in range(ranks.world)]
    store.set(names[ranks.rank], "")
    try:
        store.wait(names, timedelta(seconds=meet_seconds))
    except RuntimeError as error:
        missing = [rank for rank, name in enumerate(names) if not store.check([name])]
        raise RankError(
            f"after {meet_seconds:g} s {len(missing)} of {ranks.world} ranks have not come: "
            f"rank {', '.join(map(str, missing[:8]))}. Start them all, with the same MASTER_ADDR "
            "and MASTER_PORT"
        ) from error


def _may_be_echo(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _ECHO.search(str(error)) is not None
