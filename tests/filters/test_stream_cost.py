"""How much work a stream costs, counted in characters read and not in time."""

from __future__ import annotations

import dataclasses

import pytest

from runtime.filters.automaton import Automaton
from runtime.filters.rules import RuleSet, compile_rule
from runtime.filters.stream import StreamFilter

CHARS = 8000


class Counted:
    """An expression that counts how many bytes its searches were given."""

    def __init__(self, expression):
        self.real = expression
        self.searched = 0

    def search(self, data, at):
        self.searched += len(data) - at
        return self.real.search(data, at)


@pytest.fixture
def steps(monkeypatch):
    counted = []
    real = Automaton.step

    def step(self, threads, code, start):
        counted.append(1)
        return real(self, threads, code, start)

    monkeypatch.setattr(Automaton, "step", step)
    return counted


CASES = {
    "a match every fourth character": ([r"[0-9]{4}"], "1"),
    "a match at every character": ([r"1"], "1"),
    "ends that are no match": ([r"\b[0-9]{4}\b"], "1"),
    "matches held back for longer ones": ([r"1{4}", r"1{4}0{8}2"], "11110000"),
    "short words": ([r"\bab\b"], "ab "),
    "several bytes a character": (["д{4}"], "д"),
}


@pytest.mark.parametrize(("patterns", "text"), CASES.values(), ids=CASES.keys())
def test_one_long_piece_costs_linear_work(patterns, text, steps):
    rule = compile_rule(
        name="r",
        patterns=patterns,
        literals=[],
        action="redact",
        direction="both",
        roles=("*",),
        models=("*",),
        replacement=".",
        max_match_chars=None,
    )
    expression = Counted(rule.expression)
    rules = RuleSet([dataclasses.replace(rule, expression=expression)])
    hostile = (text * CHARS)[:CHARS]
    stream = StreamFilter(rules)
    left = stream.feed(hostile).text + stream.finish().text
    assert left == RuleSet([rule]).apply(hostile).text
    # Once when it arrives, once or twice more around matches.
    assert len(steps) < 4 * CHARS
    # A search sees one slice and what was held back at most, and there is one a match.
    assert expression.searched < 2 * 300 * CHARS


def test_rules_that_cannot_begin_cost_nothing(steps):
    rules = RuleSet(
        [
            compile_rule(
                name=f"r{index}",
                patterns=[],
                literals=[f"zebra{index}"],
                action="flag",
                direction="both",
                roles=("*",),
                models=("*",),
                replacement="",
                max_match_chars=None,
            )
            for index in range(100)
        ]
    )
    stream = StreamFilter(rules)
    assert stream.feed("hello world " * 500).text == "hello world " * 500
    assert len(steps) == 0
