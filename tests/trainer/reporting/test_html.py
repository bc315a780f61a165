"""The report: what it shows, what it survives, and that nothing in it is alive."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pages.parsed import Parsed
from tests.trainer.reporting.runs import plan, tell
from trainer.evaluation import metrics
from trainer.evaluation.result import EvaluationResult, Sample
from trainer.recipe.schema import Recipe
from trainer.reporting.artifacts import (
    EVALUATION_FILE,
    SAMPLES_FILE,
    write_evaluation,
    write_samples,
)
from trainer.reporting.history import HISTORY_FILE, PLAN_FILE, HistoryReporter
from trainer.reporting.html import REPORT_FILE, render_report

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></style></title><!-- ",
    "' onmouseover='x",
    "&lt;b&gt; &amp;",
    "\u202eright to left",
    "nul \x00 and escape \x1b[31m",
    "half a pair \ud83d",
    "]]><![CDATA[",
    "javascript:alert(1)",
)


def classified(labels: tuple[str, ...], examples: int = 200) -> EvaluationResult:
    numbers = np.random.default_rng(0)
    count = len(labels)
    truth = numbers.integers(0, count, examples)
    predicted = np.where(
        numbers.random(examples) < 0.8, truth, numbers.integers(0, count, examples)
    )
    confusion = metrics.confusion_matrix(truth, predicted, count)
    bins = metrics.reliability_bins(numbers.uniform(0.5, 1.0, examples), truth == predicted)
    figures = metrics.label_figures(confusion)
    return EvaluationResult(
        objective="classification",
        examples=examples,
        targets=examples,
        seconds=1.0,
        loss=0.5,
        metrics={"accuracy": metrics.accuracy(confusion), "f1_macro": metrics.macro_f1(figures)},
        intervals={"accuracy": metrics.wilson_interval(int(np.trace(confusion)), examples)},
        labels=labels,
        per_label=dict(zip(labels, figures, strict=True)),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        reliability=tuple(bins),
    )


def finished_run(folder: Path, **changes: object) -> Path:
    reporter = HistoryReporter()
    tell(reporter, plan(folder, **changes))
    reporter.finish({"steps": 50})
    return folder


def read(folder: Path) -> Parsed:
    page = render_report(folder).read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>\n<html")
    return Parsed(page)


def test_a_whole_run_is_shown(tmp_path: Path) -> None:
    finished_run(tmp_path)
    write_evaluation(tmp_path, classified(("negative", "positive")))
    write_samples(tmp_path, [Sample("To be", ", or not", 0.8)])
    parsed = read(tmp_path)
    assert parsed.problems == []
    shown = (
        "tiny", "finished", "803k parameters",  # header
        "Loss over steps, nats per target", "Learning rate", "Tokens per second",  # curves
        "best 1.6000 after step 40",
        "Reliability", "Confusion matrix", "By label", "negative", "95% interval",  # evaluation
        "To be, or not", "temperature 0.8",  # samples
        "seed", "1337",  # recipe
        "play.txt", "cd" * 32, "2.0 KiB",  # data
        "torch", "2.13.0",  # environment
        "ab" * 32,  # the recipe's digest
    )  # fmt: skip
    for text in shown:
        assert text in parsed.text


def test_it_opens_offline_and_runs_nothing(tmp_path: Path) -> None:
    finished_run(tmp_path)
    page = render_report(tmp_path).read_text(encoding="utf-8")
    for sign in ("http:", "https:", "//", "url(", "@import", "<script", "<link", "<iframe"):
        assert sign not in page.lower()
    policies = [value for _, name, value in Parsed(page).attributes if name == "content"]
    assert any(value.startswith("default-src 'none'") for value in policies)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_as_text(hostile: str, tmp_path: Path) -> None:
    source = {"name": hostile, "sha256": hostile, "bytes": 1, "role": hostile}
    finished_run(
        tmp_path,
        name=hostile,
        device=hostile,
        recipe={hostile: {hostile: hostile}},
        sources=(source,),
        environment={hostile: hostile},
    )
    write_evaluation(tmp_path, classified((hostile, "other")))
    write_samples(tmp_path, [Sample(hostile, hostile, 1.0)])
    parsed = read(tmp_path)
    assert parsed.problems == []
    safe = "".join("\ufffd" if one in "\x00\x1b\ud83d" else one for one in hostile)
    # Name, device, recipe, source, environment, label in three tables, and the sample.
    assert parsed.text.count(safe) >= 12


@settings(max_examples=20, deadline=None)
@given(label=st.text(max_size=20), sample=st.text(max_size=60))
def test_no_text_changes_the_page_s_elements(
    label: str, sample: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_evaluation(folder, classified((label, label + "2")))
    write_samples(folder, [Sample(label, sample, 1.0)])
    found = read(folder)
    plain = tmp_path_factory.mktemp("plain")
    write_evaluation(plain, classified(("one", "one2")))
    write_samples(plain, [Sample("one", "two", 1.0)])
    assert found.problems == []
    assert found.tags == read(plain).tags


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    parsed = read(tmp_path)
    assert parsed.problems == []
    assert "not finished" in parsed.text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format":"x"}', "[1]", "\x00", '"x"', "null"])
@pytest.mark.parametrize("name", [EVALUATION_FILE, SAMPLES_FILE, PLAN_FILE, HISTORY_FILE])
def test_a_damaged_file_is_a_remark_at_most(name: str, content: str, tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / name).write_text(content)
    parsed = read(tmp_path)
    assert parsed.problems == []
    assert "Casemate training report" in parsed.text


def test_a_damaged_evaluation_is_said(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / EVALUATION_FILE).write_text("{}")
    assert "the evaluation could not be read (ValueError)." in read(tmp_path).text


def test_a_part_that_cannot_be_drawn_costs_only_itself(tmp_path: Path) -> None:
    finished_run(tmp_path)
    # Of the right shape, and yet no matrix of these labels.
    broken = dataclasses.replace(classified(("a", "b")), confusion=((1,), ()))
    write_evaluation(tmp_path, dataclasses.replace(broken, intervals={"accuracy": (0.1, 0.2)}))
    path = tmp_path / PLAN_FILE
    path.write_text(path.read_text().replace('"environment": {', '"environment": [], "_": {'))
    parsed = read(tmp_path)
    assert parsed.problems == []
    assert "By label" in parsed.text


@pytest.mark.parametrize(
    ("summary", "state"),
    [
        ({"finished": True, "reason": "done"}, "finished"),
        ({"finished": True, "reason": "early"}, "no better validation"),
        ({"finished": True, "reason": "time"}, "stopped by run.max_minutes"),
        ({"finished": False, "reason": "asked"}, "stopped when asked"),
        ({}, "ended by an error"),
    ],
)
def test_the_state_of_a_run(summary: dict[str, object], state: str, tmp_path: Path) -> None:
    reporter = HistoryReporter()
    tell(reporter, plan(tmp_path), until=30)
    reporter.finish(summary)
    parsed = read(tmp_path)
    assert state in parsed.text


def test_a_resumed_run_and_its_notes_are_told(tmp_path: Path) -> None:
    tell(HistoryReporter(), plan(tmp_path), until=45)
    resumed = HistoryReporter()
    tell(resumed, plan(tmp_path, first_step=30))
    resumed.note("stopped early")
    text = read(tmp_path).text
    assert "Resumed after step 30." in text
    assert "After step 50: stopped early" in text


def test_values_that_differ_from_the_defaults_stand_out(tmp_path: Path) -> None:
    recipe = {
        one.name: dataclasses.asdict(getattr(Recipe(), one.name))
        for one in dataclasses.fields(Recipe)
    }
    recipe["optimizer"]["learning_rate"] = 0.0123
    page = render_report(finished_run(tmp_path, recipe=recipe)).read_text()
    assert page.count('class="changed"') == 1
    assert "Peak learning rate." in page
    assert "0.0123" in page


def test_many_labels_are_told_by_their_mistakes(tmp_path: Path) -> None:
    labels = tuple(f"label-{number}" for number in range(30))
    write_evaluation(tmp_path, classified(labels, examples=2000))
    text = read(tmp_path).text
    assert "Commonest mistakes" in text
    assert "taken for" in text


def test_a_report_is_replaced_whole(tmp_path: Path) -> None:
    finished_run(tmp_path)
    first = render_report(tmp_path).read_bytes()
    assert render_report(tmp_path).read_bytes() == first
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(
        [HISTORY_FILE, PLAN_FILE, REPORT_FILE]
    )


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-folder"):
        render_report(tmp_path / "no-such-folder")
