"""The search over a real, tiny GGUF model: llama.cpp quantizes, judges and times it."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.errors import QuantizationError
from compiler.llama.gguf_file import open_gguf
from compiler.llama.imatrix import tokenize
from compiler.llama.jobs import timing
from compiler.llama.jobs.session import Session
from compiler.llama.plan import GgufPlan
from compiler.progress import Progress, silent
from compiler.report.page import render_page
from compiler.report.record import encode_record, parse_record
from compiler.targets.choosing import named_targets, this_machine
from compiler.targets.target import Target
from compiler.tune.bench import Bench
from compiler.tune.candidate import Candidate
from compiler.tune.choose import Load
from compiler.tune.finish import finish_search
from compiler.tune.gguf_bench import GgufBench, GgufSource
from compiler.tune.gguf_predict import gguf_predictor, predict_speed
from compiler.tune.gguf_space import GgufSpace
from compiler.tune.gguf_tune import default_source
from compiler.tune.predict import PredictingBench
from compiler.tune.promise import make_promise
from compiler.tune.request import Texts, Tuned, TuneRequest
from tests.support.tiny_models import tiny_gguf

PROMISE = make_promise(None, max_kl=1e-4)


def text(seed: int, words: int) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(("the", "on", "in", "her", "tin", "then")) for _ in range(words))


class FewSeeds(GgufSpace):
    """The space with three of its seeds: one near the reference, one calibrated, one ruined."""

    def seeds(self) -> list[Candidate]:
        wanted = (("output", "Q8_0", "plain"), ("output", "Q5_0", "feedback"))
        found = [one for one in super().seeds() if _key(one) in wanted]
        return [
            *found,
            *[one for one in super().seeds() if one.label.startswith("layers Q4_0")][:1],
        ]

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        return []


def _key(one: Candidate) -> tuple[str, str | None, str]:
    plan = GgufPlan.from_dict(one.plan)
    return one.family, plan.output, plan.rounding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


def how(model: Path, texts: Texts) -> GgufSource:
    return GgufSource(
        model,
        texts.evaluation,
        texts.calibration,
        window=128,
        windows=1,
        seconds=0.02,
        batches=(1, 2),
        prefill=32,
        min_calibration=256,
    )


def tune(model: Path, folder: Path, target: Target) -> Tuned:
    texts = Texts(text(1, 300), text(2, 300))
    asked = TuneRequest(
        source=model,
        target=target,
        promise=PROMISE,
        load=Load(1),
        folder=folder,
        texts=texts,
        rounds=1,
        machine="a processor",
    )
    measuring = GgufBench(how(model, texts), folder)
    here = target.origin == "detected"
    predict = gguf_predictor(measuring, target, (1, 2), 32)
    bench: Bench = measuring if here else PredictingBench(measuring, target, predict)
    space = FewSeeds(
        measuring.tensors,
        measuring.default_settings,
        calibrated=True,
        max_kl=PROMISE.max_kl,
        runs_here=False,
    )
    return finish_search(asked, bench, space, silent)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def tuned(model: Path, searched: Path) -> Tuned:
    return tune(model, searched, this_machine(bandwidth_gb_s=10.0))


def test_what_is_chosen_keeps_the_promise_and_the_ruined_is_not_timed(tuned: Tuned) -> None:
    quality = tuned.chosen.quality
    assert quality is not None
    assert PROMISE.broken(quality) == ()
    assert tuned.chosen.rounds
    assert tuned.path.is_file()
    assert parse_record(encode_record(tuned.record)) == tuned.record
    ruined = [one for one in tuned.record.candidates if one.candidate.family == "whole"]
    assert [one.rates for one in ruined] == [{}]
    assert "too far from the promise" in (ruined[0].dropped or "")


def test_a_ruined_candidates_file_is_removed(tuned: Tuned, searched: Path) -> None:
    kept = [one for one in tuned.record.candidates if one.dropped is None]
    files = {one.sha256 for one in kept if one.candidate.family != "reference"}
    assert len(list((searched / "candidates").iterdir())) == len(files)


def test_for_another_machine_speeds_are_predicted_and_quality_is_measured(
    model: Path, tmp_path: Path
) -> None:
    found = tune(model, tmp_path, named_targets()["armv8.2-dotprod"])
    assert found.record.predicted
    assert all(one.predicted for one in found.record.candidates if one.rates)
    assert found.chosen.quality is not None
    assert "speeds predicted" in render_page(found.record)


@pytest.fixture(scope="module")
def short(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, made for 64 tokens."""
    path = tmp_path_factory.mktemp("short") / "short.gguf"
    key = b"llama.context_length" + struct.pack("<I", 4)
    before, after = (key + struct.pack("<I", count) for count in (512, 64))
    data = model.read_bytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))
    return path


def test_a_model_is_judged_and_timed_within_its_context(short: Path, tmp_path: Path) -> None:
    asked = TuneRequest(
        source=short,
        target=this_machine(bandwidth_gb_s=10.0),
        promise=PROMISE,
        load=Load(1),
        folder=tmp_path,
        texts=Texts(text(1, 1200), text(2, 1200)),
    )
    source = default_source(asked, 1)
    assert (source.window, source.prefill) == (64, 64)
    tokens = len(tokenize(short, asked.texts.evaluation))
    assert source.windows == tokens // 64 > 24
    bench = GgufBench(replace(source, seconds=0.05), tmp_path)
    bench.prepare(silent)
    quality = bench.quality(bench.reference, quick=False, progress=silent)
    # The second half of each window, without its last token, which nothing follows.
    assert quality.samples == source.windows * 31
    assert quality.samples > 3 * bench.quality(bench.reference, quick=True, progress=silent).samples
    assert quality.kl_mean == pytest.approx(0, abs=1e-3)


def test_decoding_is_timed_within_the_context(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions: list[int] = []

    class Watched(Session):
        def decode(
            self,
            tokens: Sequence[int],
            positions_: Sequence[int],
            slots: Sequence[int],
            wanted: Sequence[bool],
        ) -> None:
            positions.extend(positions_)
            super().decode(tokens, positions_, slots, wanted)

    monkeypatch.setattr(timing, "Session", Watched)
    arguments = {"gguf": str(short), "batches": [1, 2], "prefill": 64, "seconds": 0.05}
    settings = {"threads": 1, "flash": True, "extra_buffers": True, "batch_tokens": 64}
    answer = timing.serve(arguments | settings, silent)
    assert max(positions) == 63
    assert all(rate > 0 for rate in answer["decode"].values())


def test_groups_are_ranked_in_sight_and_can_be_stopped(model: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    bench = GgufBench(how(model, Texts(text(1, 300))), tmp_path)
    bench.prepare(silent)
    told: list[str] = []

    def stop(label: str, fraction: float) -> None:
        del fraction
        told.append(label)
        if len({one for one in told if one.startswith("ranking ")}) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        bench.ranking("Q4_0", stop)
    assert not list(tmp_path.glob("ranking-*"))


def test_text_that_is_too_short_is_refused(model: Path, tmp_path: Path) -> None:
    bench = GgufBench(how(model, Texts("the tin", text(2, 300))), tmp_path)
    with pytest.raises(QuantizationError, match="too short"):
        bench.prepare(silent)


def test_predictions_follow_bandwidth_and_cores(model: Path) -> None:
    with open_gguf(model) as file:
        slow = predict_speed(file.tensors, named_targets()["armv8.2-dotprod"], (1, 16), 512)
        fast = predict_speed(file.tensors, named_targets()["x86-64-v4-vnni"], (1, 16), 512)
    assert slow.predicted
    assert all(fast.rates[name] > rate for name, rate in slow.rates.items())
    assert slow.rates["decode@16"] >= slow.rates["decode@1"]
