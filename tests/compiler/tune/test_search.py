"""The search's stages and its journal, over a small real workload: rounding a matrix.

The model is a matrix of class scores, its forms are the matrix rounded to fewer bits, and
quality is the divergence of its answers: computed, not made up. Speed is what bytes allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import SearchError, SourceError
from compiler.progress import Progress
from compiler.tune.bench import CandidateFailedError, CandidateKilledError, candidates_fault
from compiler.tune.candidate import Candidate, Quality, Speed
from compiler.tune.choose import Load
from compiler.tune.journal import JOURNAL_NAME
from compiler.tune.promise import make_promise
from compiler.tune.search import SearchRequest, SearchResult, search
from security.errors import UnsafeModelError
from security.strictjson import JsonValue

WEIGHTS = np.random.default_rng(0).standard_normal((64, 32))
INPUTS = np.random.default_rng(1).standard_normal((200, 64))


def form(bits: int, threads: int = 2) -> Candidate:
    family = "reference" if bits == 64 else "whole"
    return Candidate("onnxruntime", f"{bits} bits", family, {"bits": bits}, {"threads": threads})


def distribution(weights: np.ndarray) -> np.ndarray:
    scores = INPUTS @ weights / 4
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


class MatrixBench:
    """Rounds, judges and times the matrix; `before` may fail any step of any candidate."""

    has_quick = True
    reference = form(64)

    def __init__(
        self, folder: Path, before: Callable[[str, Candidate], None] = lambda *_: None
    ) -> None:
        self.folder = folder
        self.before = before
        self.steps: list[tuple[str, str]] = []

    @property
    def context(self) -> Mapping[str, JsonValue]:
        return {"source_sha256": "a" * 64}

    def prepare(self, progress: Progress) -> None:
        progress("nothing", 1.0)

    def make(self, candidate: Candidate, progress: Progress) -> Path:
        path = self.folder / f"{candidate.plan_digest}.npy"
        if not path.exists():
            self._step("make", candidate)
            levels = 2.0 ** (float(str(candidate.plan["bits"])) - 2)
            rounded = WEIGHTS if levels > 2**40 else np.round(WEIGHTS * levels / 4) * 4 / levels
            path.write_bytes(rounded.tobytes()[: int(str(candidate.plan["bits"])) * 256])
            np.save(path.with_suffix(".full.npy"), rounded)
        return path

    def discard(self, candidate: Candidate) -> None:
        (self.folder / f"{candidate.plan_digest}.npy").unlink(missing_ok=True)

    def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
        self._step("quick" if quick else "quality", candidate)
        path = self.make(candidate, progress)
        right, found = distribution(WEIGHTS), distribution(np.load(path.with_suffix(".full.npy")))
        rows = slice(0, 50 if quick else None)
        kl = (right[rows] * np.log(right[rows] / found[rows])).sum(axis=1).mean()
        return Quality(samples=len(right[rows]), kl_mean=float(kl))

    def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        for one in candidates:
            self._step("speed", one)
        sizes = [self.make(one, progress).stat().st_size for one in candidates]
        # One thread is faster than two here, so that settings would win if they could.
        rates = [
            2e6 / int(str(one.settings["threads"])) / size
            for one, size in zip(candidates, sizes, strict=True)
        ]
        return [Speed({"decode@1": rate}, 0.1, 1.0) for rate in rates]

    def _step(self, kind: str, candidate: Candidate) -> None:
        self.steps.append((kind, candidate.label))
        self.before(kind, candidate)


class BitSpace:
    """2, 4, 8, 12 and 16 bits first; around the best one bit less, and more around the closest."""

    def seeds(self) -> list[Candidate]:
        return [form(bits) for bits in (2, 4, 8, 12, 16)]

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        found = [form(int(str(one.plan["bits"])) - 1) for one in kept[:1]]
        return found + [form(int(str(one.plan["bits"])) + 1) for one in left[:1]]

    def settings(self, best: Candidate) -> list[Candidate]:
        return [replace(form(int(str(best.plan["bits"])), threads=1), family="settings")]


def run(bench: MatrixBench, folder: Path, max_kl: float = 0.01, **more: float) -> SearchResult:
    promise = make_promise(None, max_kl=max_kl)
    request = SearchRequest(promise, Load(1), folder, rounds=3, **more)  # type: ignore[arg-type]
    return search(bench, BitSpace(), request)


def test_the_search_refines_to_the_narrowest_form_that_keeps_the_promise(tmp_path: Path) -> None:
    bench = MatrixBench(tmp_path)
    result = run(bench, tmp_path)
    chosen = result.choice.chosen
    bits = int(str(chosen.candidate.plan["bits"]))
    assert chosen.quality is not None
    assert chosen.quality.kl_mean is not None
    assert chosen.quality.kl_mean <= 0.01
    assert bits < 8
    assert len(chosen.rounds) == 3
    assert ("quality", "2 bits") not in bench.steps
    assert ("speed", "2 bits") not in bench.steps


def test_a_lucky_first_round_wins_nothing(tmp_path: Path) -> None:
    """Seven forms keep the promise; five lead after one round and turn out slower."""

    class Lucky(MatrixBench):
        def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
            first = [("speed", one.label) not in self.steps for one in candidates]
            found = super().speeds(candidates, progress)
            return [
                replace(speed, rates={name: _drawn(one, early) for name in speed.rates})
                for one, speed, early in zip(candidates, found, first, strict=True)
            ]

    def _drawn(candidate: Candidate, early: bool) -> float:
        bits = int(str(candidate.plan["bits"]))
        if bits == 64:
            return 100.0
        return 100.0 + bits if bits >= 14 or not early else 200.0 - bits

    class Seven(BitSpace):
        def seeds(self) -> list[Candidate]:
            return [form(bits) for bits in range(9, 16)]

        def refine(
            self, kept: list[Candidate], left: list[Candidate], progress: Progress
        ) -> list[Candidate]:
            return []

    request = SearchRequest(make_promise(None, max_kl=0.01), Load(1), tmp_path, rounds=3)
    result = search(Lucky(tmp_path), Seven(), request)
    assert result.choice.chosen.candidate.label in ("14 bits", "15 bits")
    assert len(result.choice.chosen.rounds) == 3
    assert all(len(one.rounds) >= 3 for one in result.choice.front)


def test_faster_settings_are_advice_and_never_chosen(tmp_path: Path) -> None:
    result = run(MatrixBench(tmp_path), tmp_path)
    settings = [one for one in result.trials if one.candidate.family == "settings"]
    assert [one.candidate.plan for one in settings] == [result.choice.chosen.candidate.plan]
    assert settings[0].rounds
    assert result.choice.chosen.candidate.settings == {"threads": 2}
    assert all(one.candidate.family != "settings" for one in result.choice.front)
    assert result.advice == ("with threads 1: 200% of the speed (1 round)",)


def test_every_timing_stands_beside_the_reference_of_its_round(tmp_path: Path) -> None:
    bench = MatrixBench(tmp_path)
    for trial in run(bench, tmp_path).trials:
        assert all(one.reference.rates for one in trial.rounds)
    timed = [label for kind, label in bench.steps if kind == "speed"]
    assert timed[0] == "64 bits"
    assert timed.count("64 bits") >= 3


@pytest.mark.parametrize("stop_at", (3, 14, 25))
def test_an_interrupted_search_goes_on_and_repeats_nothing(tmp_path: Path, stop_at: int) -> None:
    class Interrupted(BaseException):
        pass

    count = 0

    def stop(kind: str, candidate: Candidate) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            raise Interrupted

    whole = run(MatrixBench(tmp_path / "w"), _made(tmp_path / "w"))
    first = MatrixBench(_made(tmp_path / "i"), stop)
    with pytest.raises(Interrupted):
        run(first, tmp_path / "i")
    second = MatrixBench(tmp_path / "i")
    result = run(second, tmp_path / "i")
    assert result.choice.chosen.candidate == whole.choice.chosen.candidate
    judged = [step for step in first.steps[:-1] + second.steps if step[0] in ("quick", "quality")]
    assert len(judged) == len(set(judged))


def test_a_candidate_that_fails_costs_itself_and_is_not_tried_again(tmp_path: Path) -> None:
    def crash(kind: str, candidate: Candidate) -> None:
        if candidate.label == "8 bits" and kind == "make":
            raise CandidateFailedError("the quantizer died of signal 6")

    result = run(MatrixBench(tmp_path, crash), tmp_path)
    failed = next(one for one in result.trials if one.candidate.label == "8 bits")
    assert failed.dropped == "failed: the quantizer died of signal 6"
    again = MatrixBench(tmp_path)
    run(again, tmp_path)
    assert ("make", "8 bits") not in again.steps


def test_a_candidate_whose_process_was_killed_is_tried_again(tmp_path: Path) -> None:
    def kill(kind: str, candidate: Candidate) -> None:
        if candidate.label == "8 bits" and kind == "make":
            raise CandidateKilledError("was killed by SIGKILL")

    result = run(MatrixBench(tmp_path, kill), tmp_path)
    killed = next(one for one in result.trials if one.candidate.label == "8 bits")
    assert killed.dropped == "failed: was killed by SIGKILL"
    again = run(MatrixBench(tmp_path), tmp_path)
    assert next(one for one in again.trials if one.candidate.label == "8 bits").rounds


@pytest.mark.parametrize("error", [CandidateFailedError, CandidateKilledError])
def test_a_reference_that_failed_once_is_tried_again(
    tmp_path: Path, error: type[CandidateFailedError]
) -> None:
    def fail(kind: str, candidate: Candidate) -> None:
        if candidate.label == "64 bits":
            raise error("it took too long")

    with pytest.raises(SearchError, match="the reference cannot be measured"):
        run(MatrixBench(tmp_path, fail), tmp_path)
    assert run(MatrixBench(tmp_path), tmp_path).choice.chosen.rounds


def chosen_file(folder: Path) -> tuple[Path, bytes]:
    """Search in a folder, and return the chosen file."""
    chosen = run(MatrixBench(folder), folder).choice.chosen.candidate
    path = folder / f"{chosen.plan_digest}.npy"
    return path, path.read_bytes()


def test_a_file_that_is_not_the_one_that_was_measured_is_made_anew(tmp_path: Path) -> None:
    path, measured = chosen_file(tmp_path)
    path.write_bytes(bytes(len(measured)))
    again = MatrixBench(tmp_path)
    result = run(again, tmp_path)
    assert path.stem == result.choice.chosen.candidate.plan_digest
    assert path.read_bytes() == measured
    assert ("make", result.choice.chosen.candidate.label) in again.steps


def test_a_file_that_cannot_be_made_again_is_not_chosen(tmp_path: Path) -> None:
    path, measured = chosen_file(tmp_path)
    path.write_bytes(bytes(len(measured)))

    class Other(MatrixBench):
        def make(self, candidate: Candidate, progress: Progress) -> Path:
            made = super().make(candidate, progress)
            if made == path:
                made.write_bytes(bytes(len(measured)))
            return made

    result = run(Other(tmp_path), tmp_path)
    dropped = next(one for one in result.trials if one.candidate.plan_digest == path.stem)
    assert "another than the one that was measured" in (dropped.dropped or "")
    assert result.choice.chosen.candidate.plan_digest != path.stem


def test_a_file_that_no_journal_knows_is_not_believed(tmp_path: Path) -> None:
    planted = tmp_path / f"{form(8).plan_digest}.npy"
    planted.write_bytes(b"planted")
    bench = MatrixBench(tmp_path)
    run(bench, tmp_path)
    assert ("make", "8 bits") in bench.steps
    assert not planted.exists() or planted.read_bytes() != b"planted"


def test_a_quality_that_was_seen_on_a_part_says_so(tmp_path: Path) -> None:
    result = run(MatrixBench(tmp_path), tmp_path)
    states = {one.candidate.label: one.quick for one in result.trials}
    assert states["2 bits"]
    assert not states["64 bits"]
    assert not result.choice.chosen.quick


class Endless(BitSpace):
    """Ranks for as long as it is let."""

    def __init__(self) -> None:
        self.calls = 0

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        while self.calls < 10**7:
            self.calls += 1
            progress("ranking", 0.5)
        return []


def test_ranking_tensors_ends_with_its_share_of_the_budget(tmp_path: Path) -> None:
    promise, space = make_promise(None, max_kl=0.01), Endless()
    request = SearchRequest(promise, Load(1), tmp_path, rounds=1, budget_seconds=3.0)
    result = search(MatrixBench(tmp_path), space, request)
    assert 0 < space.calls < 10**7
    assert "refinement: tensors were not ranked for time" in result.notes
    assert result.choice.chosen.rounds


def test_one_that_fails_in_a_round_does_not_take_the_others_along(tmp_path: Path) -> None:
    def crash(kind: str, candidate: Candidate) -> None:
        if candidate.label == "12 bits" and kind == "speed":
            raise CandidateFailedError("was killed: out of memory")

    result = run(MatrixBench(tmp_path, crash), tmp_path)
    states = {one.candidate.label: one.dropped for one in result.trials}
    assert states["12 bits"] == "failed: was killed: out of memory"
    assert states["16 bits"] is None


def test_a_full_disk_ends_the_search_and_leaves_what_was_measured(tmp_path: Path) -> None:
    def full(kind: str, candidate: Candidate) -> None:
        if candidate.label == "12 bits" and kind == "make":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(MatrixBench(tmp_path, full), tmp_path)
    assert (tmp_path / JOURNAL_NAME).read_bytes().count(b'"kind":"quality"') > 2
    assert run(MatrixBench(tmp_path), tmp_path).choice.chosen is not None


def test_without_time_nothing_is_pretended(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="more time"):
        run(MatrixBench(tmp_path), tmp_path, budget_seconds=1e-6)


def test_what_does_not_fit_the_targets_memory_is_not_chosen(tmp_path: Path) -> None:
    # The reference included, also by a search that goes on.
    for _ in range(2):
        with pytest.raises(SearchError, match="fits the target's memory of 0 MiB"):
            run(MatrixBench(tmp_path), tmp_path, memory_bytes=64)


def test_a_reference_that_cannot_be_timed_is_nobody_elses_failure(tmp_path: Path) -> None:
    def fail(kind: str, candidate: Candidate) -> None:
        if (kind, candidate.label) == ("speed", "64 bits"):
            raise CandidateFailedError("an odd machine")

    with pytest.raises(SearchError, match="the reference cannot be timed: an odd machine"):
        run(MatrixBench(tmp_path, fail), tmp_path)
    result = run(MatrixBench(tmp_path), tmp_path)
    assert result.choice.chosen.candidate.label != "64 bits"


@pytest.mark.parametrize("error", [SourceError("no"), UnsafeModelError("truncated", "no")])
def test_a_file_that_nothing_loads_is_its_candidates_failure(error: Exception) -> None:
    with pytest.raises(CandidateFailedError, match="no"), candidates_fault():
        raise error


def test_a_figure_that_the_source_has_not_is_refused_before_the_search(tmp_path: Path) -> None:
    bench = MatrixBench(tmp_path)
    promise = make_promise(None, max_kl=0.01, min_spearman=0.9)
    with pytest.raises(SearchError, match=r"min_spearman: this source has no such figure"):
        search(bench, BitSpace(), SearchRequest(promise, Load(1), tmp_path))
    assert {label for _, label in bench.steps} == {"64 bits"}


@pytest.mark.parametrize("kind", ["quality", "speed"])
def test_a_step_ends_with_the_budget(tmp_path: Path, kind: str) -> None:
    """Each of these steps would go on for ever."""

    class Endless(MatrixBench):
        def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
            while kind == "speed" and len(self.steps) > 30:
                progress("timing", 0.5)
            return super().speeds(candidates, progress)

        def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
            while kind == "quality" and candidate.label == "8 bits":
                progress("judging", 0.5)
            return super().quality(candidate, quick=quick, progress=progress)

    result = run(Endless(tmp_path), tmp_path, budget_seconds=1.0)
    assert any("for time" in note for note in result.notes)
    assert run(MatrixBench(tmp_path), tmp_path).choice.chosen.rounds


def test_many_clients_have_wide_forms_timed_too(tmp_path: Path) -> None:
    class Wide(BitSpace):
        def seeds(self) -> list[Candidate]:
            return [form(bits) for bits in range(6, 30)]

    def timed(clients: int) -> tuple[set[str], tuple[str, ...]]:
        request = SearchRequest(
            make_promise(None, max_kl=1.0), Load(clients), tmp_path / str(clients), rounds=1
        )
        result = search(MatrixBench(_made(request.folder)), Wide(), request)
        found = {one.candidate.label for one in result.trials if one.rounds}
        return found, result.notes

    few, notes = timed(1)
    assert "29 bits" not in few
    assert any("candidates within the promise were not timed" in note for note in notes)
    assert {"6 bits", "29 bits"} <= timed(16)[0]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
