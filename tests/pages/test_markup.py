"""Text cannot become markup, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.pages.markup import element, escape, join, table
from tests.pages.parsed import Parsed


def test_an_element() -> None:
    made = element("p", "a < b & c", element("br"), class_="soft", data_count=3, title=None)
    assert made == '<p class="soft" data-count="3">a &lt; b &amp; c<br></p>'


def test_attributes_are_escaped() -> None:
    made = element("span", "x", title='"><script>alert(1)</script>')
    parsed = Parsed(made)
    assert parsed.tags == ["span"]
    assert parsed.attributes == [("span", "title", '"><script>alert(1)</script>')]


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\x7f", "\x85", "\ud800", "\ufffe", "\U0001ffff"])
def test_what_html_cannot_hold_is_replaced(bad: str) -> None:
    assert escape(f"a{bad}b") == "a\ufffdb"


@pytest.mark.parametrize("good", ["\t", "\n", "é", "漢", "🙂", "\u200f", "\ufffd"])
def test_other_characters_stay(good: str) -> None:
    assert escape(good) == good


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_is_read_back_as_text(child: str, title: str) -> None:
    made = element("div", element("span", child, title=title), child)
    made.encode("utf-8")
    parsed = Parsed(made)
    assert parsed.tags == ["div", "span"]
    assert parsed.problems == []
    assert parsed.text == str_of(child) * 2
    assert parsed.attributes == [("span", "title", str_of(title))]


def str_of(text: str) -> str:
    """Return a text with what HTML cannot hold replaced, found without the code under test."""

    def fits(one: str) -> bool:
        point = ord(one)
        control = (point < 32 and one not in "\t\n") or 127 <= point < 160
        nothing = 0xFDD0 <= point <= 0xFDEF or point & 0xFFFE == 0xFFFE
        return not (control or nothing or 0xD800 <= point <= 0xDFFF)

    return "".join(one if fits(one) else "\ufffd" for one in text)


def test_join_escapes_what_is_plain() -> None:
    assert join(("<", None, element("br"), ">")) == "&lt;<br>&gt;"


def test_a_table_heads_its_rows() -> None:
    parsed = Parsed(table(["<a>", "b"], [["one", "1"], ["two", "2"]], class_="numbers"))
    assert parsed.problems == []
    assert parsed.text == "<a>bone1two2"
    scopes = [value for _, name, value in parsed.attributes if name == "scope"]
    assert scopes == ["col", "col", "row", "row"]
