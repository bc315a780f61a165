"""Finds out which rank this process is: one resolver for torchrun, srun and mpirun.

    RANK, WORLD_SIZE                      torchrun, `casemate train --ranks`
    SLURM_PROCID, SLURM_NTASKS            srun
    OMPI_COMM_WORLD_RANK, ..._SIZE        mpirun (Open MPI); Horovod's users come from here
    none of them                          a single process

The first line that is set decides. What it refuses: half of a pair, numbers that
contradict one another, and several machines of which nobody says where the first is.
`resolve` is a pure function of the environment; nothing is looked up or connected.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from security.errors import UsageError

Launcher = Literal["single", "torchrun", "slurm", "mpi"]

DEFAULT_PORT: Final = 29500
# Set by `trainer.distribution.launch` for the ranks that it starts.
SUPERVISOR: Final = "CASEMATE_SUPERVISOR"
LISTENER: Final = "CASEMATE_LISTENER"
# Ports that are derived from a job's identity: unprivileged, below the ephemeral ones.
_FIRST_PORT: Final = 15000
_PORTS: Final = 16000
_LOOPBACK: Final = "127.0.0.1"
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
# The first host of a Slurm list: "node[03-07,9],other" is node03.
_SLURM_HOST: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[([0-9]+)[^\]]*\])?([A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which rank this process is, and where the ranks meet.

    Attributes:
        rank: 0 to world - 1.
        world: number of ranks.
        local_rank: 0 to local_world - 1: the rank on this machine, and so its GPU.
        local_world: ranks on this machine.
        address: host of rank 0.
        port: TCP port where the ranks meet on that host.
        launcher: what started the ranks.
        hosted: whether the launcher serves that port; else rank 0 does.
        attempt: how often the launcher has restarted the ranks; keeps attempts apart.
        supervisor: process id of `casemate train --ranks`, which started this process, or None.
        listener: descriptor of a socket, inherited by rank 0, that listens on `port`.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = _LOOPBACK
    port: int = DEFAULT_PORT
    launcher: Launcher = "single"
    hosted: bool = False
    attempt: int = 0
    supervisor: int | None = None
    listener: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} is not one of {self.world} ranks (0 is the first)")
        if not 0 <= self.local_rank < self.local_world <= self.world:
            raise UsageError(
                f"local rank {self.local_rank} of {self.local_world} cannot be, with "
                f"{self.world} ranks in all"
            )
        if not 0 < self.port < 65536:
            raise UsageError(f"{self.port} is no TCP port")

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0


def resolve(environ: Mapping[str, str]) -> Ranks:
    """Return which rank this process is.

    Raises:
        UsageError: the environment is half set or contradicts itself; the message names
            the variable and what to set.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        return _torchrun(environ)
    # Inside `salloc` or `sbatch` SLURM_NTASKS alone is set: that is one process.
    if "SLURM_PROCID" in environ:
        return _slurm(environ)
    if "OMPI_COMM_WORLD_RANK" in environ or "OMPI_COMM_WORLD_SIZE" in environ:
        return _mpi(environ)
    return Ranks()


def _torchrun(environ: Mapping[str, str]) -> Ranks:
    rank, world = _pair(environ, "RANK", "WORLD_SIZE")
    local_rank, local_world = _local(environ, "LOCAL_RANK", "LOCAL_WORLD_SIZE", rank, world)
    address = environ.get("MASTER_ADDR", "")
    if not address:
        if local_world < world:
            raise UsageError(
                "RANK and WORLD_SIZE are set for several machines, but MASTER_ADDR is not: "
                "set it to the host of rank 0 (torchrun does so itself)"
            )
        address = _LOOPBACK
    return Ranks(
        rank=rank,
        world=world,
        local_rank=local_rank,
        local_world=local_world,
        address=address,
        port=_port(environ, DEFAULT_PORT),
        launcher="torchrun",
        hosted=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT", 0),
        supervisor=_optional(environ, SUPERVISOR),
        listener=_optional(environ, LISTENER),
    )


def _slurm(environ: Mapping[str, str]) -> Ranks:
    rank, world = _pair(environ, "SLURM_PROCID", "SLURM_NTASKS")
    # SLURM_NTASKS_PER_NODE is what was asked for; "4(x2),3" is what each node got.
    local_rank = _number(environ, "SLURM_LOCALID", rank)
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", ""))
    local_world = _tasks_on_node(per_node, _number(environ, "SLURM_NODEID", 0), world)
    address = environ.get("MASTER_ADDR", "")
    if not address:
        nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
        address = _first_slurm_host(nodes) if nodes else ""
    if not address:
        if world > 1 and local_world < world:
            raise UsageError(
                "SLURM_PROCID is set, but neither SLURM_STEP_NODELIST nor MASTER_ADDR says "
                "where rank 0 is; start with srun, or set MASTER_ADDR to its host"
            )
        address = _LOOPBACK
    job = environ.get("SLURM_JOB_ID", "") + "." + environ.get("SLURM_STEP_ID", "")
    return Ranks(
        rank=rank,
        world=world,
        local_rank=local_rank,
        local_world=local_world,
        address=address,
        port=_port(environ, _port_of(job)),
        launcher="slurm",
    )


def _mpi(environ: Mapping[str, str]) -> Ranks:
    rank, world = _pair(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
    local_rank, local_world = _local(
        environ, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", rank, world
    )
    address = environ.get("MASTER_ADDR", "")
    if not address:
        if local_world < world:
            raise UsageError(
                "mpirun started ranks on several machines, but MASTER_ADDR is not set: start "
                "with mpirun -x MASTER_ADDR=<host of rank 0> -x MASTER_PORT=29500 ..."
            )
        address = _LOOPBACK
    job = environ.get("PMIX_NAMESPACE", environ.get("OMPI_MCA_ess_base_jobid", ""))
    return Ranks(
        rank=rank,
        world=world,
        local_rank=local_rank,
        local_world=local_world,
        address=address,
        port=_port(environ, _port_of(job) if job else DEFAULT_PORT),
        launcher="mpi",
    )


def _pair(environ: Mapping[str, str], rank: str, world: str) -> tuple[int, int]:
    for name, other in ((rank, world), (world, rank)):
        if name not in environ:
            raise UsageError(f"{other} is set but {name} is not; set both, or neither")
    return _number(environ, rank, 0), _number(environ, world, 1)


def _local(
    environ: Mapping[str, str], rank_name: str, world_name: str, rank: int, world: int
) -> tuple[int, int]:
    """Return local rank and local world; without them, all ranks are on this machine."""
    if rank_name not in environ and world_name not in environ:
        return rank, world
    return _pair(environ, rank_name, world_name)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None:
        raise UsageError(f"the environment variable {name} is {text[:40]!a}, which is no number")
    return int(text)


def _optional(environ: Mapping[str, str], name: str) -> int | None:
    return _number(environ, name, 0) if name in environ else None


def _port(environ: Mapping[str, str], default: int) -> int:
    return _number(environ, "MASTER_PORT", default)


def _port_of(job: str) -> int:
    """Return a port that all ranks of a job derive alike and other jobs rarely share."""
    digest = hashlib.sha256(job.encode()).digest()
    return _FIRST_PORT + int.from_bytes(digest[:4], "big") % _PORTS


def _first_slurm_host(nodes: str) -> str:
    match = _SLURM_HOST.match(nodes)
    if match is None:
        raise UsageError(f"cannot read the list of Slurm nodes {nodes[:80]!a}; set MASTER_ADDR")
    prefix, number, suffix = match.groups()
    return f"{prefix}{number or ''}{suffix}"


def _tasks_on_node(text: str, node: int, world: int) -> int:
    """Return the tasks of a node out of Slurm's "4(x2),3"; all of them if it does not say."""
    counts: list[int] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part)
        if match is None:
            raise UsageError(f"cannot read SLURM_TASKS_PER_NODE {text[:80]!a}")
        counts.extend([int(match[1])] * int(match[2] or 1))
    if not counts:
        return world
    if node >= len(counts):
        raise UsageError(f"SLURM_NODEID is {node}, but there are tasks on {len(counts)} nodes")
    return counts[node]
