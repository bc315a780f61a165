"""How many texts a second a graph takes at each shape, in a process of its own.

Rounds of all shapes alternate, so that a drift of the machine hits all alike; what is
reported is the median round with the slowest and the fastest beside it. The inputs are
made up (the time of a graph depends on shapes, not on values): ids within the graph's own
tables, masks of ones, normal numbers for floats.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.child.job import run_child
from compiler.errors import QuantizationError
from compiler.onnx_measure.result import CaseSpeed, OnnxSpeed
from compiler.onnx_measure.session import open_session, run_session
from compiler.progress import Progress

CASES = ((1, 16), (32, 16), (1, 128), (32, 128))
Case = tuple[int, int]
_MASKS = ("attention_mask",)
_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(bool)": np.bool_,
}
# Below most vocabularies; 0 is in every table, and what types of tokens are.
_IDS = (100, 1)


def cases_within(context_tokens: int, cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """Return cases cut to a model's context, each once.

    Args:
        context_tokens: that the model has positions for.
        cases: (batch, tokens).
    """
    return tuple(dict.fromkeys((batch, min(length, context_tokens)) for batch, length in cases))


def measure_onnx_speed(
    path: Path,
    *,
    cases: Sequence[tuple[int, int]] = CASES,
    threads: int = 1,
    seconds: float = 1.0,
    rounds: int = 3,
    timeout_seconds: float = 3600.0,
) -> OnnxSpeed:
    """Measure a graph on this machine.

    Args:
        path: the graph, which a pre-parser has passed.
        cases: (batch, length) of the inputs: the first and second free axes.
        threads: of the session.
        seconds: of one round of one case, at least; a round has at least one run.
        rounds: of which the median is taken.
        timeout_seconds: after which the measurement is given up.

    Raises:
        QuantizationError: a graph or a request that cannot be measured.
        ChildError: the runtime crashed or took too long.
    """
    if not cases or rounds < 1 or threads < 1 or seconds <= 0:
        raise QuantizationError("a measurement needs cases, rounds, threads and seconds above 0")
    request = {
        "model": str(path.absolute()),
        "cases": [list(case) for case in cases],
        "threads": threads,
        "seconds": seconds,
        "rounds": rounds,
    }
    reply = run_child(__name__, request, seconds=timeout_seconds, of=path)
    reply["cases"] = tuple(CaseSpeed(**case) for case in reply["cases"])
    return OnnxSpeed(**reply)


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure, in the child."""
    del progress
    path = Path(request["model"])
    began = time.perf_counter()
    session = open_session(path, request["threads"])
    loaded = time.perf_counter() - began
    ids = _known_ids(session, request["cases"][0])
    inputs = [(case, _made_up(session, case, ids)) for case in request["cases"]]
    for _, feeds in inputs:
        run_session(session, feeds)
    rates: list[list[float]] = [[] for _ in inputs]
    for _ in range(request["rounds"]):
        for index, ((batch, _length), feeds) in enumerate(inputs):
            rates[index].append(_round(session, feeds, batch, request["seconds"]))
    cases = [
        CaseSpeed(batch, length, statistics.median(rate), min(rate), max(rate))
        for ((batch, length), _), rate in zip(inputs, rates, strict=True)
    ]
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "cases": [asdict(case) for case in cases],
        "threads": request["threads"],
        "load_seconds": loaded,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
        "file_bytes": path.stat().st_size,
    }


def _round(session: Any, feeds: dict[str, NDArray[Any]], batch: int, seconds: float) -> float:
    runs = 0
    began = time.perf_counter()
    while True:
        session.run(None, feeds)
        runs += 1
        passed = time.perf_counter() - began
        if passed >= seconds:
            return runs * batch / passed


def _known_ids(session: Any, case: Sequence[int]) -> int:
    """Return how many ids the graph's tables have for sure."""
    for ids in _IDS[:-1]:
        try:
            run_session(session, _made_up(session, case, ids, least=ids - 1))
        except QuantizationError:
            continue
        return ids
    return _IDS[-1]


def _made_up(
    session: Any, case: Sequence[int], ids: int, least: int = 0
) -> dict[str, NDArray[Any]]:
    """Return inputs of the graph's types with its free axes set to a case.

    Ids are from `least` to below `ids`.
    """
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for value in session.get_inputs():
        if value.type not in _TYPES:
            raise QuantizationError(f"the input {value.name} is a {value.type}; speed is unknown")
        free = iter(case)
        shape = [size if isinstance(size, int) else next(free, 1) for size in value.shape]
        if value.type == "tensor(float)":
            feeds[value.name] = random.standard_normal(shape).astype(np.float32)
        elif value.name in _MASKS or value.type == "tensor(bool)":
            feeds[value.name] = np.ones(shape, _TYPES[value.type])
        else:
            low, high = (0, 1) if value.name == "token_type_ids" else (least, ids)
            feeds[value.name] = random.integers(low, high, shape).astype(_TYPES[value.type])
    return feeds
