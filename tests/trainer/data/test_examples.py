from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.data.tiny import write_jsonl, write_tsv
from trainer.data import examples
from trainer.data.examples import Example, Survey, hold_out, read_examples, survey
from trainer.data.files import find_files
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import DataOptions

SECRET = "a sentence nobody may see"
PAIRED = DataOptions(pair_field="other")


def read(path: str, task: str, options: DataOptions | None = None) -> list[Example]:
    return list(read_examples(find_files([path]), task, options or DataOptions()))


def test_classes_are_words_whatever_their_type(tmp_path: Path) -> None:
    values = ["pos", " neg ", 3, 2.0, True]
    rows = [{"text": "x", "label": value} for value in values]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found = read(path, "classification")
    assert [example.label for example in found] == ["pos", "neg", "3", "2", "true"]
    assert found[2].where == f"{path}:3"


def test_tags_come_as_lists_or_between_spaces(tmp_path: Path) -> None:
    listed = write_jsonl(tmp_path / "a.jsonl", [{"text": ["New", "York"], "label": ["B", "I"]}])
    spaced = write_tsv(tmp_path / "a.tsv", [("text", "label"), ("New  York", "B I")])
    for path in (listed, spaced):
        (example,) = read(path, "tagging")
        assert (example.words, example.tags) == (("New", "York"), ("B", "I"))
        assert example.text == "New York"


def test_pairs_need_no_label(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "other": "y"}])
    for task in ("contrastive", "sequence-to-sequence"):
        (example,) = read(path, task, PAIRED)
        assert (example.text, example.pair, example.label) == ("x", "y", "")


@pytest.mark.parametrize("task", ["contrastive", "sequence-to-sequence"])
def test_a_pair_task_needs_the_name_of_the_second_text(tmp_path: Path, task: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "other": "y"}])
    with pytest.raises(RecipeError, match=r"data\.pair_field"):
        read(path, task)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("classification", {"text": SECRET}, "there is no field 'label'"),
        ("classification", {"label": SECRET}, "there is no field 'text'"),
        ("classification", {"text": "  ", "label": 1}, "the field 'text' is empty"),
        ("classification", {"text": SECRET, "label": ""}, "the field 'label' is empty"),
        ("classification", {"text": SECRET, "label": 0.5}, "a label is a word or a whole number"),
        ("classification", {"text": SECRET, "label": [SECRET]}, "of type list"),
        ("classification", {"text": [SECRET], "label": 1}, "of type list, not a string"),
        ("tagging", {"text": SECRET, "label": ["O"]}, "5 words in 'text' but 1 tags in 'label'"),
        ("tagging", {"text": ["a b"], "label": ["O"]}, "a word in 'text' holds whitespace"),
        ("tagging", {"text": [], "label": []}, "the field 'text' is empty"),
        ("tagging", {"text": {"a": SECRET}, "label": ["O"]}, "neither a list nor words"),
        ("contrastive", {"text": SECRET, "other": ""}, "the field 'other' is empty"),
    ],
)
def test_bad_examples_are_named_by_line_and_not_shown(
    tmp_path: Path, task: str, row: dict[str, Any], message: str
) -> None:
    good = {"text": "x", "label": "O", "other": "y"}
    path = write_jsonl(tmp_path / "bad.jsonl", [good, row])
    options = PAIRED if task == "contrastive" else DataOptions()
    with pytest.raises(DataError, match=message) as error:
        read(path, task, options)
    assert f"{path}:2" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_survey_counts_labels_in_order(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(["10", "9", "10", "2"])]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found = survey(find_files([path]), "classification", DataOptions())
    assert found.labels() == ("2", "9", "10")
    assert found.counts["10"] == 2
    assert np.unique(found.digests).size == 4


def test_labels_that_are_not_all_numbers_go_by_code_point() -> None:
    counts = dict.fromkeys(["b", "10", "9"], 1)
    assert Survey(np.zeros(0, np.uint64), Counter(counts)).labels() == ("10", "9", "b")


def test_a_file_of_nothing_but_a_heading_is_refused(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [("text", "label")])
    with pytest.raises(DataError, match=r"a\.tsv: no examples"):
        survey(find_files([path]), "classification", DataOptions())


def test_a_column_of_texts_is_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_LABELS", 3)
    rows = [{"text": "x", "label": f"{SECRET} {number}"} for number in range(5)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=":4: more than 3 different values") as error:
        survey(find_files([path]), "classification", DataOptions())
    assert SECRET not in str(error.value)


digests = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60).map(
    lambda values: np.array(values, dtype=np.uint64)
)


@given(digests, st.floats(0, 0.5))
def test_equal_texts_are_never_on_both_sides(values: np.ndarray, fraction: float) -> None:
    held = hold_out(values, fraction)
    distinct = np.unique(values).size
    assert not np.isin(values[held], values[~held]).any()
    assert (~held).any()
    assert held.any() == (fraction > 0 and distinct > 1)
    assert abs(np.unique(values[held]).size - fraction * distinct) <= 1


@given(digests, st.randoms())
def test_what_is_held_out_does_not_depend_on_the_order(values: np.ndarray, random: Any) -> None:
    order = list(range(values.size))
    random.shuffle(order)
    assert np.array_equal(hold_out(values, 0.3)[order], hold_out(values[order], 0.3))


def test_an_example_does_not_show_its_text() -> None:
    assert SECRET not in repr(Example(SECRET, Path("x"), 1))


def test_a_pair_cannot_pass_for_another_with_the_border_elsewhere() -> None:
    first = Example("ab", Path("x"), 1, pair="c").digest
    assert first != Example("a", Path("x"), 1, pair="bc").digest
    assert first == Example(" ab ", Path("y"), 2, pair="c").digest
