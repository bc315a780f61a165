"""Run one job of llama.cpp in a process of its own.

The job is a module of `compiler.llama.jobs`; how it is started, bounded and ended is
`compiler.child`'s. Texts of a calibration cross once, to be tokenized, through a pipe; from
then on it is tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from compiler.child.job import run_child
from compiler.progress import Progress, silent

DEFAULT_SECONDS: Final = 3600.0
_JOBS: Final = "compiler.llama.jobs"


def run_job(
    job: str,
    arguments: Mapping[str, Any],
    *,
    seconds: float = DEFAULT_SECONDS,
    threads: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run a job to its end and return its result.

    Args:
        job: the name of its module.
        arguments: JSON values; paths absolute.
        seconds: the child is killed when it takes longer.
        threads: for OpenMP and BLAS in the child.
        progress: is told what the child reports.

    Raises:
        ChildError: the child crashed, was killed, took too long or broke the protocol.
        SourceError, QuantizationError, OSError: as the job raised them in the child.
    """
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # As the appliance's workers wait at barriers, so that speeds here are theirs.
        "GOMP_SPINCOUNT": "3000",
    }
    return run_child(
        f"{_JOBS}.{job}", arguments, seconds=seconds, progress=progress, variables=variables
    )
