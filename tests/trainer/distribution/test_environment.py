"""Which rank a process is, out of what torchrun, srun and mpirun set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import UsageError
from trainer.distribution.environment import DEFAULT_PORT, Ranks, resolve

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "1234",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "0",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def test_a_process_alone() -> None:
    assert resolve({"PATH": "/bin"}) == Ranks()
    assert resolve({}).is_first
    # sbatch without srun: one process inside an allocation of many tasks.
    assert resolve({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) == Ranks()


def test_torchrun() -> None:
    expected = Ranks(3, 4, 1, 2, "node0", 1234, "torchrun")
    assert resolve(TORCHRUN) == expected
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    ranks = resolve({**TORCHRUN, **agent})
    assert (ranks.hosted, ranks.attempt) == (True, 2)
    assert resolve({"RANK": "1", "WORLD_SIZE": "2"}) == Ranks(
        1, 2, 1, 2, "127.0.0.1", DEFAULT_PORT, "torchrun"
    )
    started = resolve({**TORCHRUN, "CASEMATE_SUPERVISOR": "77", "CASEMATE_LISTENER": "5"})
    assert (started.supervisor, started.listener) == (77, 5)


def test_srun() -> None:
    ranks = resolve(SRUN)
    assert (ranks.rank, ranks.world, ranks.local_rank, ranks.local_world) == (5, 7, 1, 3)
    assert (ranks.address, ranks.launcher) == ("gpu003", "slurm")
    # All ranks of a step meet at one port, and another step at another.
    assert resolve({**SRUN, "SLURM_PROCID": "6", "SLURM_LOCALID": "2"}).port == ranks.port
    assert resolve({**SRUN, "SLURM_STEP_ID": "1"}).port != ranks.port
    assert resolve({**SRUN, "MASTER_ADDR": "first", "MASTER_PORT": "9"}).address == "first"


@pytest.mark.parametrize(
    ("nodes", "first"),
    (
        ("alone", "alone"),
        ("gpu[12,14-16]", "gpu12"),
        ("gpu[08-09]-ib,other", "gpu08-ib"),
        ("a.example.org,b.example.org", "a.example.org"),
    ),
)
def test_the_first_of_slurms_nodes(nodes: str, first: str) -> None:
    assert resolve({**SRUN, "SLURM_STEP_NODELIST": nodes}).address == first


def test_tasks_of_a_node_in_slurms_notation() -> None:
    base = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x2),3"}
    assert resolve(base).local_world == 2
    assert resolve({**base, "SLURM_NODEID": "2"}).local_world == 3
    without = {k: v for k, v in SRUN.items() if not k.endswith("_PER_NODE")}
    assert resolve({**without, "SLURM_LOCALID": "5"}).local_world == 7


def test_mpirun() -> None:
    ranks = resolve(MPIRUN)
    assert ranks == Ranks(1, 2, 1, 2, "127.0.0.1", DEFAULT_PORT, "mpi")
    assert resolve({**MPIRUN, "PMIX_NAMESPACE": "prte-1@1"}).port != DEFAULT_PORT
    far = {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    assert resolve({**far, "MASTER_ADDR": "node0"}).address == "node0"
    with pytest.raises(UsageError, match="mpirun -x MASTER_ADDR"):
        resolve(far)


def test_torchrun_decides_inside_an_allocation() -> None:
    assert resolve({**SRUN, **TORCHRUN}).launcher == "torchrun"


@pytest.mark.parametrize(
    ("environ", "what"),
    (
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set but RANK is not"),
        ({**TORCHRUN, "RANK": "4"}, "rank 4 is not one of 4 ranks"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1', which is no number"),
        ({**TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "local rank 2 of 2"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}, "local rank 1 of 8"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "70000 is no TCP port"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is not"),
        ({"SLURM_PROCID": "0"}, "SLURM_PROCID is set but SLURM_NTASKS is not"),
        ({**SRUN, "SLURM_STEP_NODELIST": "["}, "cannot read the list of Slurm nodes"),
        ({**SRUN, "SLURM_STEP_NODELIST": ""}, "says where rank 0 is"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "x"}, "cannot read SLURM_TASKS_PER_NODE"),
        ({**SRUN, "SLURM_NODEID": "2"}, "tasks on 2 nodes"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE is not"),
        ({**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "9"}, "local rank 1 of 9"),
    ),
)
def test_a_half_set_or_contradictory_environment_is_refused(
    environ: dict[str, str], what: str
) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(environ)
    assert what in str(refused.value)


@given(st.integers(1, 64), st.data())
def test_every_rank_of_a_world_is_known(world: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, world - 1))
    ranks = resolve({"RANK": str(rank), "WORLD_SIZE": str(world)})
    assert (ranks.rank, ranks.world, ranks.is_first) == (rank, world, rank == 0)
