"""The search over a real, tiny encoder: real quantization, real sessions, real processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.bundling.encoders import plan_bert
from compiler.errors import SearchError
from compiler.report.page import render_page, write_page
from compiler.report.picture import write_picture
from compiler.report.record import encode_record, parse_record
from compiler.targets.choosing import named_targets, this_machine
from compiler.tune.choose import Load
from compiler.tune.journal import JOURNAL_NAME
from compiler.tune.promise import make_promise
from compiler.tune.request import Texts, Tuned, TuneRequest
from compiler.tune.tune import tune_onnx
from tests.support.tiny_models import tiny_encoder_dir

WORDS = ("sea", "hill", "road", "house", "tree")
LINES = [f"{a} and {b} of the {a}" for a in WORDS for b in ("light", "sound", "edge", "end")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_encoder_dir(tmp_path_factory.mktemp("model") / "encoder")
    graph = folder / "model.onnx"
    plan_bert(folder).write_model(graph, lambda _: None)
    return graph


def request(source: Path, folder: Path, **changes: Any) -> TuneRequest:
    asked = TuneRequest(
        source=source,
        target=this_machine(bandwidth_gb_s=10.0),
        promise=make_promise(None, min_spearman=0.9),
        load=Load(4),
        folder=folder,
        texts=Texts("\n".join(LINES), "\n".join(LINES[::5])),
        rounds=2,
        command=("casemate", "compile", "encoder"),
        machine="a processor",
    )
    return replace(asked, **changes)


def tune(asked: TuneRequest) -> Tuned:
    tokenizer = asked.source.parent / "tokenizer.json"
    cases = ((1, 16), (4, 16))
    return tune_onnx(
        asked, lambda *_: None, tokenizer, "embed", context_tokens=64, seconds=0.01, cases=cases
    )


@pytest.fixture(scope="module")
def tuned(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(request(source, tmp_path_factory.mktemp("search")))


def test_what_is_chosen_keeps_the_promise_and_was_timed_beside_the_reference(tuned: Tuned) -> None:
    quality = tuned.chosen.quality
    assert quality is not None
    assert quality.spearman is not None
    assert quality.spearman >= 0.9
    assert len(tuned.chosen.rounds) >= 2
    assert tuned.path.is_file()
    assert not tuned.record.predicted


def test_every_kind_of_format_was_judged(tuned: Tuned) -> None:
    kinds = {one.candidate.plan["kind"] for one in tuned.record.candidates if one.quality}
    assert kinds == {"float32", "float16", "dynamic_int8", "static_int8", "blocks"}


def test_the_record_is_read_back_and_drawn(tuned: Tuned, tmp_path: Path) -> None:
    assert parse_record(encode_record(tuned.record)) == tuned.record
    write_page(tmp_path / "page.html", tuned.record)
    write_picture(tmp_path / "picture.svg", tuned.record)
    page = (tmp_path / "page.html").read_text()
    assert "casemate compile encoder" in page
    assert not any(line in page for line in LINES)


def test_nothing_measured_on_is_written_anywhere(tuned: Tuned) -> None:
    journal = tuned.path.parent.parent / JOURNAL_NAME
    text = journal.read_text() + encode_record(tuned.record).decode()
    assert not any(line in text for line in LINES)


def test_a_search_goes_on_and_repeats_no_measurement(source: Path, tuned: Tuned) -> None:
    folder = tuned.path.parent.parent
    before = (folder / JOURNAL_NAME).read_bytes()
    again = tune(request(source, folder))
    after = (folder / JOURNAL_NAME).read_bytes()
    assert after.startswith(before)
    added = [json.loads(line)["kind"] for line in after[len(before) :].splitlines()]
    # Rounds that had their number need no more; a finalist that is new may.
    assert set(added) <= {"speed"}
    assert again.record.context == tuned.record.context


def test_a_promise_that_nothing_measures_is_refused(source: Path, tmp_path: Path) -> None:
    promise = make_promise(None, min_accuracy=0.9)
    with pytest.raises(SearchError, match="nothing of the promise"):
        tune(request(source, tmp_path, promise=promise))


# An appliance chooses by level, and another machine of this level may have no VNNI.
ELSEWHERE = replace(named_targets()["x86-64-v3"], features=("avx_vnni",))


@pytest.fixture(scope="module")
def elsewhere(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(request(source, tmp_path_factory.mktemp("elsewhere"), target=ELSEWHERE))


def test_for_another_machine_speeds_are_predicted_and_quality_is_measured(
    elsewhere: Tuned,
) -> None:
    record = elsewhere.record
    assert record.predicted
    assert all(one.predicted for one in record.candidates if one.rates)
    assert record.context["predicted_for"] == ELSEWHERE.to_dict()
    assert elsewhere.chosen.quality is not None
    assert elsewhere.chosen.quality.spearman is not None
    page = render_page(record)
    assert "speeds predicted" in page
    assert "never measured there" in page
    assert parse_record(encode_record(record)) == record


def test_settings_are_not_tried_for_another_machine(elsewhere: Tuned) -> None:
    assert all(one.candidate.family != "settings" for one in elsewhere.record.candidates)


def test_weights_spare_a_bit_where_a_machine_of_the_level_would_saturate(
    elsewhere: Tuned,
) -> None:
    plans = [one.candidate.plan for one in elsewhere.record.candidates]
    spare = {plan["reduce_range"] for plan in plans if str(plan["kind"]).endswith("int8")}
    assert spare == {True}


def test_too_few_texts_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="too few"):
        tune(request(source, tmp_path, texts=Texts("one\ntwo")))
