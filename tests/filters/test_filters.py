"""What rules match, and that a stream is filtered exactly like the whole text."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.filters.normalize import Normalizer, normalize, units_of
from runtime.filters.rewrite import RuleError
from runtime.filters.rules import Rule, RuleSet, compile_rule
from runtime.filters.stream import StreamFilter


def rule(name="rule", *, patterns=(), literals=(), action="redact", limit=None) -> Rule:
    return compile_rule(
        name=name,
        patterns=patterns,
        literals=literals,
        action=action,
        direction="both",
        roles=("*",),
        models=("*",),
        replacement=f"[{name}]",
        max_match_chars=limit,
    )


def streamed(rules: RuleSet, pieces: list[str]) -> tuple[str, tuple[str, ...], bool]:
    stream = StreamFilter(rules)
    text = "".join(stream.feed(piece).text for piece in pieces) + stream.finish().text
    return text, stream.verdicts, stream.blocked


def whole(rules: RuleSet, text: str) -> tuple[str, tuple[str, ...], bool]:
    outcome = rules.apply(text)
    return outcome.text, outcome.verdicts, outcome.blocked


# Rules with every feature that could make a stream differ from the whole: overlaps,
# self-overlaps, boundaries, anchors, alternatives, classes, a limit on repetition.
RULES = RuleSet(
    [
        rule("digits", patterns=[r"\b[0-9]{2,4}\b"]),
        rule("abab", literals=["abab"]),
        rule("long", patterns=["a[^c]{0,6}c"]),
        rule("alt", patterns=["(?:b|bb|bcb)a?"]),
        rule("end", patterns=["cc$"]),
        rule("start", patterns=["^ba"]),
        rule("open", patterns=["d.*e"], limit=5),
        rule("note", patterns=["b{2}"], action="flag"),
        rule("stop", literals=["dcd"], action="block"),
    ]
)
ALPHABET = "abcde12 é\u200b\u0301\u0421ＡB\ufe0f\n\u0915\u0941\x85"


@settings(max_examples=600, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=7), max_size=12))
def test_any_split_gives_what_the_whole_text_gives(pieces):
    assert streamed(RULES, pieces) == whole(RULES, "".join(pieces))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=5), max_size=8))
def test_any_split_of_any_text_gives_what_the_whole_text_gives(pieces):
    assert streamed(RULES, pieces) == whole(RULES, "".join(pieces))


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_the_form_of_a_text_is_the_same_in_pieces_and_whole(text):
    in_pieces = b"".join(form for _, form in Normalizer().feed(text))
    assert in_pieces == normalize(text).encode()
    assert "".join(unit.text for unit in units_of(text)) == text


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


def test_a_long_stream_stays_equal_after_its_window_was_trimmed():
    rules = RuleSet([rule("word", patterns=[r"\bsecret\b"]), rule("num", patterns=["[0-9]{3,9}"])])
    text = ("no secrets here, a secret é there 1234567890123 " * 400) + "secret"
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    assert streamed(rules, pieces) == whole(rules, text)
    assert "a [word] é there [num][num] " in streamed(rules, pieces)[0]


class TestHoldingBack:
    def test_text_that_cannot_begin_a_match_leaves_at_once(self):
        stream = StreamFilter(RuleSet([rule(literals=["zebra crossing"])]))
        assert stream.feed("hello world, ").text == "hello world, "
        assert not stream.held

    def test_a_beginning_is_held_until_it_is_decided(self):
        stream = StreamFilter(RuleSet([rule(literals=["zebra"])]))
        assert stream.feed("a ze").text == "a "
        assert stream.feed("b").text == ""
        assert stream.feed("u").text == "zebu"

    def test_nothing_of_a_match_leaves_before_it_is_complete(self):
        stream = StreamFilter(RuleSet([rule("card", patterns=[r"[0-9]{4}(?:[ -]?[0-9]{4}){3}"])]))
        left = "".join(stream.feed(char).text for char in "no 4111-1111 1111 111")
        assert left == "no "
        # The longest possible match: nothing that follows could change it.
        assert stream.feed("1").text == "[card]"

    def test_a_held_beginning_leaves_at_the_end(self):
        stream = StreamFilter(RuleSet([rule(literals=["zebra"])]))
        assert stream.feed("zeb").text == ""
        assert stream.finish().text == "zeb"

    def test_nothing_leaves_after_a_block(self):
        stream = StreamFilter(RuleSet([rule(literals=["stop"], action="block")]))
        assert stream.feed("go stop go on").text == "go "
        assert stream.blocked
        assert stream.feed("more").text == ""
        assert stream.finish().text == ""

    def test_an_invisible_character_after_a_redacted_word_goes_with_it(self):
        stream = StreamFilter(RuleSet([rule("w", literals=["word"])]))
        text = stream.feed("word").text + stream.feed("\u200b\u200b").text + stream.feed("!").text
        assert text == "[w]!"


DISGUISES = {
    "upper case": "SECRET PROJECT",
    "full width": "ｓｅｃｒｅｔ　ｐｒｏｊｅｃｔ",
    "zero width": "se\u200bcr\u200cet pro\u2060ject",
    "soft hyphen": "sec\u00adret pro\u00adject",
    "accents": "sécrêt prójèct",
    "combining": "s\u0336e\u0336c\u0336ret pro\u0301ject",
    "cyrillic": "ѕесгеt рrојесt",
    "mathematical": "𝐬𝐞𝐜𝐫𝐞𝐭 𝓹𝓻𝓸𝓳𝓮𝓬𝓽",
    "circled": "ⓢⓔⓒⓡⓔⓣ ⓟⓡⓞⓙⓔⓒⓣ",
    "selectors": "s\ufe0fe\ufe0fcret pro\U000e0101ject",
    "tags": "secret\U000e0041\U000e0042 project",
    "white space": "secret \t\n\u00a0\u2003 project",
    "fillers": "sec\u3164ret pro\u115fject",
    "bidi": "\u202esecret\u202c \u2066project\u2069",
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES.keys())
def test_a_literal_is_found_in_disguise(disguise):
    rules = RuleSet([rule("p", literals=["Secret project"])])
    outcome = rules.apply(f"the {disguise} is on")
    assert outcome.verdicts == ("p:redact",)
    assert "[p]" in outcome.text
    assert outcome.text.endswith(" is on")


def test_digits_of_any_script_count_as_digits():
    rules = RuleSet([rule("pin", patterns=["[0-9]{4}"])])
    assert rules.apply("pin ١٢٣٤ or १२३४").text == "pin [pin] or [pin]"


def test_redaction_keeps_everything_around_it_as_it_was():
    rules = RuleSet([rule("x", literals=["bad"])])
    assert rules.apply("Ünï  BAD\u200b  Cödé").text == "Ünï  [x]  Cödé"


def test_overlapping_matches_become_one():
    rules = RuleSet([rule("first", literals=["abcd"]), rule("second", literals=["cdef"])])
    assert rules.apply("xabcdefx").text == "x[first]x"


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [
        (["a+"], "without bound"),
        (["a{3,}b"], "without bound"),
        (["(?:ab)*c"], "without bound"),
        (["a?"], "empty"),
        (["(a"], "cannot be read"),
        (["a(?=b)"], "not supported|refuses"),
        ([r"(a)\1"], "not supported|refuses"),
        (["[[:alpha:]]"], "POSIX"),
        (["a{,3}"], "write"),
        (["(?:(?:a{0,99}){0,99}){0,9}b"], "states|moves"),
        ([], "patterns or literals"),
    ],
)
def test_a_rule_that_cannot_be_enforced_is_refused(patterns, problem):
    with pytest.raises(RuleError, match=problem):
        rule(patterns=patterns)


def test_a_limit_bounds_an_unbounded_pattern():
    rules = RuleSet([rule("b", patterns=["<.*>"], limit=10)])
    assert rules.apply("<0123456789>").text == "[b]"
    assert rules.apply("<0123456789a>").text == "<0123456789a>"


@pytest.mark.parametrize("hostile", ["1" * 250_000, "1 " * 125_000, "a" * 250_000, "é" * 125_000])
def test_a_hostile_text_costs_linear_time(hostile):
    rules = RuleSet([rule("c", patterns=[r"\b[0-9]{13,19}\b", "(?:a{1,30}){1,9}b"])])
    rules.apply(hostile[:1000])
    began = time.process_time()
    rules.apply(hostile)
    assert time.process_time() - began < 2.0


def test_a_screen_that_runs_out_of_memory_hides_no_match(monkeypatch):
    rules = RuleSet([rule("a", literals=["alpha"]), rule("b", patterns=["b{3}"])])
    (screen,) = rules._screens
    broken = type("Broken", (), {"Match": lambda self, data: None})()
    monkeypatch.setattr(rules, "_screens", [dataclasses.replace(screen, patterns=broken)])
    assert rules.apply("an alpha, bbb").verdicts == ("a:redact", "b:redact")


def test_rules_too_large_for_one_screen_are_matched_by_several(monkeypatch):
    monkeypatch.setattr("runtime.filters.rules._SCREEN_MEMORY_BYTES", 1 << 16)
    rules = RuleSet([rule(f"r{i}", literals=[f"w{i:02} {'long ' * 20}"]) for i in range(30)])
    assert len(rules._screens) > 1
    outcome = rules.apply(f"w03 {'long ' * 20} w29 {'long ' * 20}")
    assert outcome.verdicts == ("r3:redact", "r29:redact")


def test_a_refused_text_is_not_edited(monkeypatch):
    rules = RuleSet(
        [
            rule("late", literals=["tail"], action="flag"),
            rule("note", literals=["head"], action="flag"),
            rule("digits", patterns=["[0-9]{4}"]),
            rule("stop", literals=["stop"], action="block"),
        ]
    )
    text = "head 1111" + "\u200b" * 1000 + " stop tail" + " 2222" * 1000
    expected = rules.apply(text)
    assert expected.blocked

    def edited(_):
        raise AssertionError("a refused text was cut into units")

    monkeypatch.setattr("runtime.filters.rules.units_of", edited)
    monkeypatch.setattr(RuleSet, "spans", edited)
    outcome = rules.apply(text, refuse=True)
    assert outcome.text == ""
    assert outcome.blocked
    assert outcome.verdicts == expected.verdicts == ("note:flag", "digits:redact", "stop:block")
    assert rules.apply("head and tail").verdicts == ("note:flag", "late:flag")


def test_invisible_text_after_a_character_is_one_slice_of_its_unit():
    text = "\u200b" * 5 + "a" + "\u200b" * 50_000 + "b"
    units = list(units_of(text))
    assert [len(unit.text) for unit in units] == [5, 50_001, 1]
    assert [(unit.start, unit.end) for unit in units] == [(0, 0), (0, 1), (1, 2)]
