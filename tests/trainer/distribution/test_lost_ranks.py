"""A rank that dies, hangs or fails ends the others soon, with one error that names it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.distribution import lost_ranks
from tests.trainer.distribution.once import made_once
from trainer.distribution.lines import EXIT_LOST


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.trainer.distribution.lost_ranks", str(folder)]
        subprocess.run(command, check=True, timeout=110)

    folder = made_once(tmp_path_factory, "lost-ranks", make)
    result: dict[str, Any] = json.loads((folder / "outcomes.json").read_text())
    return result


@pytest.mark.parametrize("how", ("killed", "hangs"))
@pytest.mark.parametrize(("name", "lost"), (("first", 0), ("second", 1)))
def test_a_lost_rank_is_named_once_and_ends_the_others(
    outcomes: dict[str, Any], name: str, lost: int, how: str
) -> None:
    both = outcomes[f"{name} {how}"]
    victim, other = both[str(lost)], both[str(1 - lost)]
    assert victim["code"] == -signal.SIGKILL
    assert victim["stderr"] == ""
    assert other["code"] == EXIT_LOST
    assert other["seconds"] < lost_ranks.DEADLINE_SECONDS
    assert other["stderr"].count("error:") == 1
    assert f"rank {lost} of 2" in other["stderr"]
    assert "Run the same command again" in other["stderr"]
    assert "Traceback" not in other["stderr"]


@pytest.mark.parametrize(("name", "failing"), (("first", 0), ("second", 1)))
def test_a_rank_that_fails_says_why_and_the_other_nothing(
    outcomes: dict[str, Any], name: str, failing: int
) -> None:
    both = outcomes[f"{name} fails"]
    own, other = both[str(failing)], both[str(1 - failing)]
    assert own == {**own, "code": 1, "stderr": "error: corpus.txt, line 7: not UTF-8\n"}
    assert other == {**other, "code": EXIT_LOST, "stderr": ""}


def test_a_rank_that_waits_for_another_is_not_taken_for_lost(outcomes: dict[str, Any]) -> None:
    both = outcomes["nobody fails"]
    assert [both[rank]["code"] for rank in "01"] == [0, 0]
    assert [both[rank]["stderr"] for rank in "01"] == ["", ""]
