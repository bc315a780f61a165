"""privacy.html: in words that a privacy officer can read, and nothing that could run."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.privacy.reports import report
from trainer.privacy.record import PrivacyReport
from trainer.privacy.report import guess_bound, render_privacy_page, write_privacy_page
from trainer.privacy.sections import Curve, Evidence


class _Reader(HTMLParser):
    """Collects the text, the tags and whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "br", "hr", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page_of(made: PrivacyReport) -> _Reader:
    reader = _Reader()
    reader.feed(render_privacy_page(made))
    reader.close()
    assert reader.open == []
    return reader


def test_it_says_what_the_claim_means_and_all_that_the_record_says() -> None:
    page = page_of(report())
    for words in (
        "guesses whether all that one user contributed (at most 4 records)",
        "is right at most 95.26% of the time",
        "one in 100,000",
        "audited: not contradicted",
        "Epsilon for each delta",
        "dp-accounting 0.6.0",
        "0.2 (below the claim, 3)",
        "23 of 40 guesses right",
        "1.50 bits (1.30 – 1.70)",
        "long texts",
        "87.0%",
        "Noise multiplier (sigma)",
        "truncated-poisson",
        "epsilon 8 at delta 1e-05",
        "What this does not protect",
        "NIST SP 800-226",
        "Who has to be trusted?",
    ):
        assert words in page.text, words


def test_it_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    page = page_of(report())
    assert page.links == []
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form"})


def test_names_are_text_whatever_they_say() -> None:
    made = report()
    hostile = "<script>alert(1)</script>\u202e"
    utility = made.utility
    assert utility is not None
    made = replace(
        made,
        model=replace(made.model, name=hostile),
        utility=replace(utility, groups=(replace(utility.groups[0], name=hostile),)),
    )
    page = page_of(made)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_a_refuted_claim_says_so_before_anything_else() -> None:
    made = report()
    audit = made.evidence.audit
    assert audit is not None
    evidence = replace(made.evidence, audit=replace(audit, lower_bound=4.0))
    page = page_of(report(evidence=evidence))
    assert "refuted by its audit" in page.text
    assert "The claim below is false" in page.text
    assert "is right at most" not in page.text
    assert "4 (more than is claimed, 3)" in page.text


def test_an_audit_that_could_not_contradict_the_claim_gets_no_green_badge() -> None:
    audit = report().evidence.audit
    assert audit is not None
    weak = replace(audit, ceiling=3.0)
    page = render_privacy_page(report(evidence=replace(report().evidence, audit=weak)))
    assert "audited, could not have contradicted it" in page
    assert "audited: not contradicted" not in page


def test_without_an_audit_or_a_twin_it_says_that() -> None:
    page = page_of(report(evidence=Evidence(), utility=None))
    assert "not audited" in page.text
    assert "No audit was made." in page.text
    assert "What privacy cost was not measured." in page.text


def test_a_curve_of_one_point_is_not_drawn() -> None:
    made = report()
    one = Curve((1e-5,), (3.0,), (None,), (None,))
    page = page_of(replace(made, accounting=replace(made.accounting, curve=one)))
    assert "svg" not in page.tags


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_privacy_page(tmp_path / "privacy.html", report())
    assert path.read_text() == render_privacy_page(report())
    assert [each.name for each in tmp_path.iterdir()] == ["privacy.html"]


def test_what_a_guess_can_reach() -> None:
    assert guess_bound(3.0, 0.0) == pytest.approx(math.exp(3) / (1 + math.exp(3)))
    assert guess_bound(1e-9, 0.0) == pytest.approx(0.5)


@given(epsilon=st.floats(1e-6, 1000), delta=st.floats(1e-12, 0.1))
def test_it_is_a_chance_and_grows_with_both(epsilon: float, delta: float) -> None:
    chance = guess_bound(epsilon, delta)
    assert 0.5 <= chance <= 1
    assert guess_bound(epsilon * 1.1, delta) >= chance - 1e-12
    assert guess_bound(epsilon, delta * 1.1) >= chance - 1e-12


def test_it_names_its_own_figures_that_no_claim_covers() -> None:
    page = page_of(report())
    for named in (
        "evidence.membership",
        "weights were learned without privacy",
        "part of the private records is held out",
    ):
        assert named in page.text
    answers = {each.name: each.answer for each in report().hazards}
    assert "no claim covers them" in answers["Does the code do what the proof says?"]
    assert "the claim covers none" in answers["What did privacy cost, and whom?"]
    bare = report(evidence=Evidence(), utility=None)
    assert not any("covers none" in each.answer for each in bare.hazards)


def test_it_says_what_a_user_is() -> None:
    page = page_of(report())
    assert "told apart by the field author" in page.text
    assert "the field 'author' of the data" in page.text


def test_nothing_of_the_twins_weights_is_in_the_record() -> None:
    assert "twin_sha256" not in report().encode().decode()
