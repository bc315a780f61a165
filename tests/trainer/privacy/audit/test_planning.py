"""How far an audit could reach, before it is made."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from trainer.privacy.audit.one_run import bound_epsilon
from trainer.privacy.audit.planning import canaries_for, reach_of

GUIDE = Path(__file__).resolve().parents[4] / "docs" / "guides" / "privacy.md"


@pytest.mark.parametrize("canaries", [100, 201])
def test_it_is_what_an_attack_reaches_that_guesses_every_coin(canaries: int) -> None:
    coins = np.arange(canaries) < canaries // 2
    found = bound_epsilon(np.where(coins, 1.0, -1.0), coins, delta=1e-5)
    assert found.epsilon == found.ceiling
    assert reach_of(canaries, 1e-5).ceiling == pytest.approx(found.ceiling)


def test_the_fewest_that_are_enough_or_those_that_reach_furthest() -> None:
    enough = canaries_for(4.0, 1e-6)
    assert enough.canaries == 500
    assert enough.ceiling > 4.0 > reach_of(200, 1e-6).ceiling
    furthest = canaries_for(50.0, 1e-4)
    assert furthest.ceiling < 50.0
    assert furthest.ceiling >= reach_of(2 * furthest.canaries, 1e-4).ceiling


def test_the_table_in_the_guide() -> None:
    text = GUIDE.read_text()
    start = text.index("| canaries | at delta")
    rows = text[start:].partition("\n\n")[0].splitlines()
    deltas = [float(each) for each in re.findall(r"delta (\S+)", rows[0])]
    assert len(rows) > 5
    for row in rows[2:]:
        number, *shown = (cell.strip().replace(",", "") for cell in row.strip("|").split("|"))
        for delta, figure in zip(deltas, shown, strict=True):
            assert f"{reach_of(int(number), delta).ceiling:.2f}" == figure
