"""What privacy cost: a checkpoint beside its twin, overall and by group, in the report too."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from casemate.cli.main import cli
from tests.trainer.evaluation.checkpoints import LABELS, Made, make, sentences, write_data
from tests.trainer.privacy.reports import report
from trainer.data.assemble import evaluation_data
from trainer.errors import CheckpointError, DataError
from trainer.evaluation.checkpoint import evaluate_checkpoint
from trainer.evaluation.targets import score_targets
from trainer.privacy.disparity import disparities, disparity_words
from trainer.privacy.errors import PrivacyError
from trainer.privacy.record import decode_report, digests_of, read_report, write_report
from trainer.privacy.report import render_privacy_page
from trainer.privacy.sections import GroupUtility, ModelIdentity, Utility
from trainer.privacy.utility import measure_utility, paired_interval


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["privacy", "compare", *words])


def biased(made: Made, towards: int) -> Made:
    """The same classifier, with a mind made up beforehand."""
    head = made.network.output
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.bias[towards] += 100
    return made


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A private classifier that always says the first label, and a twin that says the second."""
    private = biased(make("classifier"), 0).export(tmp_path / "private")
    identity = ModelIdentity("tiny", *digests_of(private))
    write_report(private, replace(report(), model=identity))
    return private, biased(make("classifier"), 1).export(tmp_path / "twin")


def labelled(folder: Path, counts: tuple[int, int], groups: tuple[str, ...] = ("a",)) -> Path:
    """Write examples with so many of each label, and a group in turn."""
    labels = [name for name, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    rows = [
        {"text": text, "label": label, "site": groups[number % len(groups)]}
        for number, (text, label) in enumerate(zip(sentences(sum(counts)), labels, strict=True))
    ]
    random.Random(1).shuffle(rows)
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_figures_of_single_targets_are_those_of_the_evaluation(tmp_path: Path) -> None:
    for task in ("classifier", "tagger", "decoder", "masked", "seq2seq"):
        made = make(task)
        (tmp_path / task).mkdir()
        folder, path = made.export(tmp_path / task / "model"), write_data(task, tmp_path / task)
        expected = evaluate_checkpoint(folder, [path], device="cpu")
        dataset = evaluation_data(
            [str(path)],
            objective=made.recipe.objective,
            data=made.recipe.data,
            tokenizer=made.tokenizer,
            labels=made.network.labels,
            folder=tmp_path / task / "shards",
        )
        found = score_targets(made.network, dataset, device=torch.device("cpu"), batch=4)
        assert found.losses.size == expected.targets, task
        assert found.losses.mean() == pytest.approx(expected.loss, rel=1e-5), task
        assert (np.diff(found.items) >= 0).all()
        if "accuracy" in expected.metrics:
            assert found.right.mean() == pytest.approx(expected.metrics["accuracy"])


def test_it_tells_whom_privacy_costs_more(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    found = measure_utility(*pair, [labelled(tmp_path, (20, 60))], device="cpu")
    assert (found.private, found.twin, found.chance) == (0.25, 0.75, 0.75)
    assert found.examples == 80
    by_name = {group.name: group for group in found.groups}
    assert set(by_name) == {"label bad", "label good"}
    assert (by_name["label good"].private, by_name["label good"].twin) == (0.0, 1.0)
    (worse,) = disparities(found)
    assert worse.group.name == "label good"
    assert worse.cost == 1.0
    assert worse.certain
    (words,) = disparity_words(found)
    assert "label good (100.0%, 60 examples)" in words
    assert "Chance does not explain it for label good" in words
    # The twin is no better than the commonest label, so there is no gain to keep.
    assert found.kept is None
    low, high = found.cost_interval
    assert low < 0.5 < high


def test_groups_of_a_field_and_what_is_too_small_for_one(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    path = labelled(tmp_path, (30, 60), groups=("a", "b", "a", "a", "b", "c", "a", "a", "a"))
    found = measure_utility(*pair, [path], group_field="site", device="cpu")
    sizes = {group.name: group.examples for group in found.groups}
    assert sizes == {"label bad": 30, "label good": 60, "site a": 60, "site b": 20, "site c": 10}
    alone = labelled(tmp_path, (30, 60), groups=tuple("aaaaaaaabcd"))
    names = {each.name for each in measure_utility(*pair, [alone], group_field="site").groups}
    assert "smaller groups of site together" in names
    with pytest.raises(DataError, match="values; groups are at most 50") as refused:
        measure_utility(*pair, [path], group_field="text")
    assert "amber" not in str(refused.value)


def test_the_share_of_the_gain_that_is_kept(tmp_path: Path) -> None:
    private, twin, start = make("decoder"), make("decoder"), make("decoder")
    with torch.no_grad():
        for made, scale in ((private, 0.5), (twin, 0.0)):
            for parameter in made.network.parameters():
                parameter.mul_(scale)
    folders = [
        each.export(tmp_path / name)
        for each, name in ((private, "private"), (twin, "twin"), (start, "start"))
    ]
    found = measure_utility(
        folders[0], folders[1], [write_data("decoder", tmp_path)], start=folders[2], device="cpu"
    )
    assert (found.metric, found.higher_is_better) == ("loss", False)
    assert found.chance is not None
    assert found.twin < found.private < found.chance
    assert found.kept is not None
    assert found.kept == pytest.approx((found.chance - found.private) / (found.chance - found.twin))
    low, high = found.kept_interval
    assert low <= found.kept <= high
    assert found.cost_interval[0] > 0
    assert found.groups == ()


def test_the_command_records_it_and_draws_the_page(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    private, twin = pair
    (tmp_path / "recipe.toml").write_text("")
    path = labelled(tmp_path, (60, 20))
    shown = run(str(private), "--twin", str(twin), "--data", str(path), "--json", "--record")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["differences"] == []
    kept = read_report(private).utility
    assert kept is not None
    assert (kept.private, kept.twin) == (0.75, 0.25) == (found["private"], found["twin"])
    page = (tmp_path / "privacy.html").read_text()
    assert "Privacy does not cost everybody the same" in page
    words = run(str(private), "--twin", str(twin), "--data", str(path))
    assert "label bad" in words.stdout
    assert "recorded in" not in words.stdout
    # 60 of 80 have one label, and the twin always says the other.
    assert "kept of the twin's gain: no share can be named" in words.stdout
    recorded = run(str(private), "--twin", str(twin), "--data", str(path), "--record")
    said = f"recorded in {private / 'privacy.json'} and {tmp_path / 'privacy.html'}"
    assert said in recorded.stdout
    assert "Privacy does not cost everybody the same" in words.stdout


def test_without_a_start_the_share_that_is_kept_is_asked_for(tmp_path: Path) -> None:
    folders = [make("decoder").export(tmp_path / name) for name in ("one", "two")]
    words = ("--twin", str(folders[1]), "--data", str(write_data("decoder", tmp_path)))
    shown = run(str(folders[0]), *words, "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    assert "not known without the model that both began with; give it as --start" in shown.stdout


def test_without_a_twin_it_says_how_to_make_one(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    private, _ = pair
    (tmp_path / "recipe.toml").write_text("")
    shown = run(str(private), "--data", str(labelled(tmp_path, (20, 20))))
    assert shown.exit_code != 0
    made = f"casemate finetune {tmp_path / 'recipe.toml'} privacy.enabled=false -o {tmp_path}-twin"
    assert made in str(shown.exception) + shown.output


def test_what_cannot_be_compared_is_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    private, twin = pair
    path = labelled(tmp_path, (20, 20))
    with pytest.raises(PrivacyError, match="is private itself"):
        measure_utility(twin, private, [path])
    with pytest.raises(PrivacyError, match="another"):
        measure_utility(private, make("tagger").export(tmp_path / "tagger"), [path])
    (tmp_path / "text").mkdir()
    decoders = [make("decoder").export(tmp_path / name) for name in ("one", "two")]
    text = write_data("decoder", tmp_path / "text")
    with pytest.raises(DataError, match="needs labelled examples"):
        measure_utility(decoders[0], decoders[1], [text], group_field="site")


def utility(**changes: object) -> Utility:
    made = report().utility
    assert made is not None
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_gap_that_chance_explains_is_called_one() -> None:
    group = GroupUtility("few", 12, 0.80, (0.5, 0.9), 0.9, (0.6, 0.95), (-0.2, 0.3))
    (words,) = disparity_words(utility(groups=(group,)))
    assert "may differ so much by chance" in words
    equal = replace(group, private=0.88)
    assert disparity_words(utility(groups=(equal,))) == ()
    page = render_privacy_page(report(utility=utility(groups=(equal,))))
    assert "does not cost everybody" not in page
    assert "No group that was measured loses more" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"cost_interval": (0.1,)},
        {"private_interval": (0.9, 0.1)},
        {"kept": None},
    ],
    ids=["one-end", "falling", "share-gone"],
)
def test_figures_that_do_not_fit_one_another_are_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="utility"):
        report(utility=utility(**changes)).encode()


def test_a_report_with_utility_goes_to_json_and_back() -> None:
    assert decode_report(report().encode()) == report()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_a_paired_interval_holds_what_was_seen(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array([one[at] for one in pairs], dtype=np.float64) for at in (0, 1))
    low, high = paired_interval(first, second)
    assert -1 <= low < high <= 1
    assert low <= float((second - first).mean()) * len(pairs) / (len(pairs) + 2) <= high
