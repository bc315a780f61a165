"""Samples and their claim: both or neither, and they belong together."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from security.errors import CasemateError, UsageError
from security.strictjson import canonical
from tests.trainer.privacy.synthesis.models import private
from trainer.errors import CheckpointError
from trainer.privacy.errors import PrivacyError
from trainer.privacy.record import read_report
from trainer.privacy.synthesis.checking import check_model, check_samples
from trainer.privacy.synthesis.errors import SynthesisError
from trainer.privacy.synthesis.record import decode_record, record_path
from trainer.privacy.synthesis.run import Synthesis, synthesize
from trainer.privacy.synthesis.settings import Sampling


def write(decoder: Path, output: Path, count: int = 12, **values: Any) -> Synthesis:
    prompts = values.pop("prompts", ())
    sampling = Sampling(**{"seed": 3, "batch": 5, **values})
    return synthesize(decoder, output, count, sampling=sampling, prompts=prompts, device="cpu")


def test_samples_carry_the_claim_of_the_model(decoder: Path, tmp_path: Path) -> None:
    done = write(decoder, tmp_path / "texts.jsonl")
    rows = [json.loads(line) for line in done.samples.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(1, 13))
    assert all(row.keys() == {"id", "text"} and row["text"] for row in rows)
    record = check_samples(done.samples)
    report = read_report(decoder)
    assert record == done.record
    assert (record.claim, record.model) == (report.claim, report.model)
    assert record.samples.sha256 == hashlib.sha256(done.samples.read_bytes()).hexdigest()
    assert record.sampling.seed == 3
    assert check_model(record, decoder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "texts.jsonl",
        "texts.jsonl.claim.json",
    ]


def test_the_same_seed_gives_the_same_file(decoder: Path, tmp_path: Path) -> None:
    first, second = (write(decoder, tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert first.record.samples.sha256 == second.record.samples.sha256


def test_prompts_are_written_down(decoder: Path, tmp_path: Path) -> None:
    done = write(decoder, tmp_path / "texts.jsonl", prompts=("amber birch", "cedar"))
    record = check_samples(done.samples)
    assert record.prompts == ("amber birch", "cedar")
    for line in done.samples.read_text().splitlines():
        row = json.loads(line)
        assert row["text"].startswith(record.prompts[row["prompt"]])


@pytest.mark.parametrize(
    ("count", "values", "kind"),
    [
        (0, {}, UsageError),
        (-1, {}, UsageError),
        (3, {"prompts": ("amber " * 20,)}, PrivacyError),
        (3, {"max_tokens": 16}, PrivacyError),
        (1, {"prompts": ("amber", "birch")}, UsageError),
        (3, {"prompts": ("\ud800",)}, UsageError),
    ],
    ids=["none", "negative", "long-prompt", "too-many-tokens", "more-prompts", "surrogate"],
)
def test_what_cannot_be_written_leaves_nothing(
    decoder: Path, tmp_path: Path, count: int, values: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        write(decoder, tmp_path / "texts.jsonl", count, **values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["texts.jsonl", "texts.jsonl.claim.json"])
def test_nothing_is_replaced(decoder: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write(decoder, tmp_path / "texts.jsonl")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_is_not_there_is_told_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        write(tmp_path / "no-model", tmp_path / "none" / "texts.jsonl")


@pytest.mark.parametrize(("limit", "count"), [(200, 50), (600, 3)], ids=["samples", "claim"])
def test_a_full_disk_leaves_nothing(decoder: Path, tmp_path: Path, limit: int, count: int) -> None:
    # Three texts fit into 600 bytes; their claim does not.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(SynthesisError, match="cannot be written"):
            write(decoder, tmp_path / "texts.jsonl", count)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_damaged_leaves_nothing(tmp_path: Path) -> None:
    folder = private(tmp_path / "decoder")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError):
        write(folder, tmp_path / "texts.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["decoder"]


# -- samples and claims that do not belong together -----------------------------------


def changed_text(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace(json.loads(text.splitlines()[0])["text"], "something else", 1))


def added_line(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"id": 13, "text": "one more"}\n')


def left_out_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def cut_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def added_key(path: Path) -> None:
    path.write_text(path.read_text().replace('{"id": 1,', '{"id": 1, "source": "x",', 1))


def no_json(path: Path) -> None:
    path.write_text("plain text\n")


def no_claim(path: Path) -> None:
    record_path(path).unlink()


def edit(path: Path, section: str, key: str, value: object) -> None:
    document = json.loads(record_path(path).read_bytes())
    (document if not section else document[section])[key] = value
    record_path(path).write_bytes(canonical(document))


def other_count(path: Path) -> None:
    edit(path, "samples", "count", 11)


def impossible_epsilon(path: Path) -> None:
    edit(path, "claim", "epsilon", 0)


def unknown_unit(path: Path) -> None:
    edit(path, "claim", "unit", "company")


def softened_statement(path: Path) -> None:
    edit(path, "", "statement", "Harmless.")


def unknown_key(path: Path) -> None:
    edit(path, "", "note", "x")


def future_format(path: Path) -> None:
    edit(path, "", "format", "casemate.synthetic/2")


def not_canonical(path: Path) -> None:
    document = json.loads(record_path(path).read_bytes())
    record_path(path).write_text(json.dumps(document, indent=1))


@pytest.mark.parametrize(
    "damage",
    [
        changed_text,
        added_line,
        left_out_line,
        cut_line,
        added_key,
        no_json,
        no_claim,
        other_count,
        impossible_epsilon,
        unknown_unit,
        softened_statement,
        unknown_key,
        future_format,
        not_canonical,
    ],
)
def test_samples_that_are_not_those_of_the_claim_are_told(
    decoder: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    done = write(decoder, tmp_path / "texts.jsonl")
    damage(done.samples)
    with pytest.raises(SynthesisError):
        check_samples(done.samples)


def test_a_claim_that_its_model_does_not_make_is_told(decoder: Path, tmp_path: Path) -> None:
    done = write(decoder, tmp_path / "texts.jsonl")
    edit(done.samples, "claim", "epsilon", 0.5)
    with pytest.raises(SynthesisError, match="does not claim"):
        check_model(check_samples(done.samples), decoder)


def test_samples_of_another_model_are_told(decoder: Path, tmp_path: Path) -> None:
    done = write(decoder, tmp_path / "texts.jsonl")
    other = private(tmp_path / "other", "recurrent")
    with pytest.raises(SynthesisError, match="not the model"):
        check_model(done.record, other)


def test_a_model_that_lost_its_claim_is_told(decoder: Path, tmp_path: Path) -> None:
    done = write(decoder, tmp_path / "texts.jsonl")
    other = private(tmp_path / "other")
    (other / "privacy.json").unlink()
    with pytest.raises(CasemateError, match=r"no privacy\.json"):
        check_model(done.record, other)


def test_an_unreadable_claim_says_no_content() -> None:
    with pytest.raises(SynthesisError) as refused:
        decode_record(b'{"format":"secret"}')
    assert "secret" not in str(refused.value)
