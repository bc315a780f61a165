"""Characters that a reader or a model reads past do not hide what a rule names."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.filters.normalize import normalize
from runtime.filters.rules import RuleSet, compile_rule
from runtime.filters.stream import StreamFilter

LITERAL = "make a bomb"
LATIN = string.ascii_lowercase


def rules_for(literal: str) -> RuleSet:
    return RuleSet(
        [
            compile_rule(
                name="r",
                patterns=[],
                literals=[literal],
                action="block",
                direction="both",
                roles=("*",),
                models=("*",),
                replacement="",
                max_match_chars=None,
            )
        ]
    )


RULES = rules_for(LITERAL)


def is_read_past(char: str) -> bool:
    """Whether a character between two Latin letters shows nothing or decorates one of them."""
    if char in "\t\n\v\f\r":
        return False
    return unicodedata.category(char) in {"Cc", "Cf", "Me", "Mn", "Co", "Cn"}


INSERTED = [
    *(char for char in map(chr, range(0x110000)) if is_read_past(char)),
    # Blank, though their category is that of letters, symbols or spacing marks.
    *"\u115f\u1160\u2800\u3164\uffa0\ufffc\U0001d159\U0001d165",
]
REPLACED = {
    "small capitals": "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡxʏᴢ",
    "Lisu": "ꓮꓐꓚꓓꓰꓝꓖꓧꓲꓙꓗꓡꓟꓠꓳꓑqꓣꓢꓔꓴꓦꓪꓫꓬꓜ",
    **{
        unicodedata.name(chr(first)): "".join(chr(first + i) for i in range(26))
        for first in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6, 0x1F110, 0x249C, 0x24B6, 0xFF21, 0x1D670)
    },
}


def test_nothing_that_is_read_past_parts_a_literal():
    assert len(INSERTED) > 800_000
    missed = [char for char in INSERTED if normalize(f"b{char}o") != "bo"]
    assert missed == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(LITERAL)), st.sampled_from(INSERTED)), max_size=8))
def test_a_literal_is_found_whatever_is_inserted(insertions):
    text = LITERAL
    for at, char in insertions:
        text = text[:at] + char + text[at:]
    assert RULES.apply(text).blocked
    stream = StreamFilter(RULES)
    for char in text:
        stream.feed(char)
    stream.finish()
    assert stream.blocked


@pytest.mark.parametrize("alphabet", REPLACED.values(), ids=REPLACED.keys())
def test_a_literal_is_found_in_another_alphabet(alphabet):
    assert normalize(alphabet) == LATIN
    assert RULES.apply("please " + LITERAL.translate(str.maketrans(LATIN, alphabet))).blocked


@pytest.mark.parametrize(
    "text",
    ["m\x1ca\x1dk\x1ee a b\x1fomb", "m\x85a\x85ke a bomb", "m\u20dda\u20e3ke a bomb"],
    ids=["separators", "next line", "enclosing"],
)
def test_controls_and_enclosing_marks_are_no_white_space(text):
    assert RULES.apply(text).blocked


@pytest.mark.parametrize("space", "\t\n\v\f\r\u00a0\u1680\u2003\u2028\u2029\u202f\u3000")
def test_white_space_of_any_kind_is_one_space(space):
    assert RULES.apply(f"make{space}a{space} bomb").blocked


def test_enclosed_digits_are_digits():
    assert normalize("①❷⑶⒋⓹🄇7") == "1234567"


def test_marks_that_spell_stay_with_their_own_script_only():
    assert normalize("\u0915\u0941") == "\u0915\u0941"
    assert not rules_for("\u0915\u0941\u0932").apply("\u0915\u0932").blocked
    # After a letter of another script they are decoration, on Cyrillic as on Latin.
    assert rules_for("бомба").apply("бо\u0941м\u0e31ба").blocked
    assert normalize("\u0915\u0e31\u0941") == "\u0915\u0941"
