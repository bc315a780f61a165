"""The benchmark of planted secrets: its attack is exact, and it runs from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.secrets_attack import code_scores, complete
from benchmarks.secrets_data import COPIES, DIGITS, make_secrets
from benchmarks.secrets_picture import draw_picture
from trainer.data.special import SpecialTokens
from trainer.models.decoder import Decoder, build_decoder
from trainer.models.generation import generating
from trainer.recipe.schema import ModelOptions

ROOT = Path(__file__).parents[4]
DIGIT_TOKENS = list(range(3, 13))
_PATIENCE_SECONDS = 200


@pytest.fixture(scope="module")
def network() -> Decoder:
    torch.manual_seed(5)
    made = build_decoder(
        ModelOptions(layers=1, width=8, heads=2),
        vocabulary_size=16,
        context=16,
        special=SpecialTokens(begin=0, end=0),
        labels=(),
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(20)
    return made


def test_every_code_has_the_probability_of_its_tokens(network: Decoder) -> None:
    prompt = [0, 14, 15, 13]
    with generating(network):
        scores = code_scores(network, prompt, DIGIT_TOKENS)
        assert scores.shape == (10**DIGITS,)
        for code in ("00000", "00001", "12345", "90210", "99999"):
            ids = [*prompt, *(DIGIT_TOKENS[int(digit)] for digit in code)]
            chances = network({"input_ids": torch.tensor([ids[:-1]])})[0].double().log_softmax(-1)
            expected = sum(chances[len(prompt) - 1 + at, ids[len(prompt) + at]] for at in range(5))
            assert scores[int(code)] == pytest.approx(float(expected), abs=1e-4)


def test_completion_takes_the_likeliest_token_each_time(network: Decoder) -> None:
    text = [0, 14, 15]
    written = complete(network, text)
    assert len(written) == DIGITS
    with generating(network):
        for token in written:
            assert token == int(network({"input_ids": torch.tensor([text])})[0, -1].argmax())
            text = [*text, token]


def test_secrets_are_the_same_every_time_and_different_from_one_another() -> None:
    secrets = make_secrets(6)
    assert secrets == make_secrets(6)
    assert len({one.name for one in secrets}) == len({one.code for one in secrets}) == len(secrets)
    assert sorted(one.copies for one in secrets) == sorted(COPIES * 6)


def test_it_runs_small_from_public_text_to_a_picture(shared: Path, tmp_path: Path) -> None:
    words = ["-W", "ignore", "-m", "benchmarks.secrets", "--tiny", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CASEMATE_SHARED": str(shared)},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "secrets.json").read_text())
    assert [row["run"] for row in result["rows"]] == ["public", "ordinary", "record"]
    claim = result["rows"][-1]["claim"]
    assert 0 < claim["epsilon"] <= 3.0
    assert claim["audit"]["exposure_mean_bits"] > 0
    assert result["samples_of_the_record_run"]["texts"] == 4
    root = ElementTree.fromstring((tmp_path / "secrets.svg").read_text())
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    # Four secrets of two runs, and the legend.
    assert len(circles) == 8 + 3


def published() -> dict[str, Any]:
    """The result that is published."""
    document = json.loads((ROOT / "benchmarks" / "results" / "secrets.json").read_text())
    found: dict[str, Any] = document["result"]
    return found


def test_the_picture_in_the_guide_is_drawn_from_the_result() -> None:
    picture = ROOT / "docs" / "pictures" / "secrets.svg"
    assert picture.read_text(encoding="utf-8") == draw_picture(published())


def test_the_table_in_the_guide_is_the_results() -> None:
    guide = (ROOT / "docs" / "guides" / "privacy.md").read_text(encoding="utf-8")
    assert "../pictures/secrets.svg" in guide
    names = {
        "public": "before",
        "ordinary": "ordinary finetuning",
        "record": 'epsilon 3, `unit = "record"`',
        "user": 'epsilon 3, `unit = "user"`',
    }
    for row in published()["rows"]:
        planted = [one for one in row["secrets"] if one["copies"]]
        completed = sum(one["completed"] for one in planted)
        bits = (f"{one['mean_exposure_bits']:.1f}" for one in row["secrets"])
        cells = [names[row["run"]], f"{row['bits_per_byte']:.2f}", f"{completed}", *bits]
        assert f"| {' | '.join(cells)} |" in guide


def test_privacy_kept_what_ordinary_finetuning_told() -> None:
    """What the project promises of this benchmark."""
    rows = {row["run"]: row for row in published()["rows"]}
    most = rows["ordinary"]["secrets"][-1]
    assert most["completed"] == most["secrets"]
    for run in ("record", "user"):
        assert rows[run]["claim"]["epsilon"] <= 3.0
        assert all(one["completed"] == 0 for one in rows[run]["secrets"])
        assert rows[run]["bits_per_byte"] < rows["public"]["bits_per_byte"]
