"""`privacy.html`: a privacy report for people who answer for the data, in one file.

Made from `privacy.json` alone, so it says nothing that the record does not. It begins
with what the claim means in words, then what was tried against it, what it cost, how it
was done, what it does not cover. It opens offline: no script, nothing from elsewhere, and
every text of the record is text, never markup (`casemate.pages.markup`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from casemate.pages import numbers
from casemate.pages.markup import Child, Markup, element, table
from casemate.pages.page import page, part, tiles
from trainer.privacy.curve_chart import epsilon_chart
from trainer.privacy.record import PrivacyReport
from trainer.privacy.sections import Claim, Membership
from trainer.privacy.utility_part import utility_part
from trainer.reporting.files import write_whole
from trainer.reporting.sections import metric_name, metric_text

PAGE_NAME: Final = "privacy.html"


def write_privacy_page(path: Path, report: PrivacyReport) -> Path:
    """Write the page; it must not lie in the checkpoint, whose files are fixed.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    write_whole(path, render_privacy_page(report))
    return path


def render_privacy_page(report: PrivacyReport) -> str:
    """Return the page as HTML."""
    parts = (
        _header(report),
        _meaning(report),
        _tiles(report),
        _curve(report),
        _evidence(report),
        utility_part(report.utility),
        _mechanism(report),
        _composition(report),
        _not_protected(report),
        _hazards(report),
        _footer(report),
    )
    body = element("main", *parts)
    return page(f"{report.model.name} – privacy report", [body])


def guess_bound(epsilon: float, delta: float) -> float:
    """Return how often a guess about one unit can be right at most, from even odds.

    The guess is whether the unit counted; the guesser knows everything else. For a true
    claim it is (e^epsilon + delta) / (1 + e^epsilon) (Kairouz, Oh and Viswanath 2015).
    """
    odds = math.exp(-epsilon)
    return min(1.0, (1 + delta * odds) / (1 + odds))


def _header(report: PrivacyReport) -> Markup:
    standing = report.standing
    words, kind = "not audited", "open"
    if standing.refuted:
        words, kind = "refuted by its audit", "bad"
    elif standing.audited and standing.audit is not None:
        words, kind = "audited: not contradicted", "good"
        if standing.audit.ceiling <= standing.epsilon:
            words, kind = "audited, could not have contradicted it", "open"
    state = element("span", words, class_=f"state {kind}")
    facts = f"{report.created} · training record {report.model.training_sha256[:12]}"
    return element(
        "header",
        element("div", "Casemate privacy report", class_="brand"),
        element("h1", element("bdi", report.model.name), state),
        element("p", facts, class_="facts"),
    )


def _meaning(report: PrivacyReport) -> Markup:
    claim = report.claim
    if report.standing.refuted:
        text = (
            "The claim below is false: an attack on this model shows that it reveals more. Do not "
            "rely on it, and do not ship the model. Something in the training did not do what "
            "the proof assumes."
        )
        return element("p", text, class_="card")
    whose = (
        f"all that one user contributed (at most {claim.contributions} records)"
        if claim.unit == "user"
        else "one record"
    )
    limit = guess_bound(claim.epsilon, claim.delta)
    one_in = f"{1 / claim.delta:,.0f}"
    text = (
        f"Whoever has this model, knows all other training data, and guesses whether {whose} was "
        f"used, is right at most {100 * limit:.4g}% of the time; a coin is right 50% of the time. "
        f"That holds for every way to attack the model, also for those yet to be found, but for "
        f"a chance of one in {one_in}. It is an upper bound; attacks that are known usually find "
        "far less."
    )
    return element("p", text, class_="card")


def _tiles(report: PrivacyReport) -> Markup:
    claim, audit = report.claim, report.evidence.audit
    found = [
        ("Epsilon", f"{claim.epsilon:.4g}", "at most; smaller is more private"),
        ("Delta", f"{claim.delta:.4g}", f"below 1 in {report.mechanism.units:,} {claim.unit}s"),
        ("Protects", f"one {claim.unit}", f"{_by(claim)}relation: {claim.neighbours}"),
    ]
    if audit is not None:
        remark = f"epsilon at least, {audit.confidence:.0%} sure, {audit.canaries:,} canaries"
        found.append(("Audit", f"{audit.lower_bound:.3g}", remark))
    if report.utility is not None:
        name = metric_name(report.utility.metric)
        other = f"{metric_text(name, report.utility.twin)} without privacy"
        value = metric_text(name, report.utility.private)
        found.append((name[:1].upper() + name[1:], value, other))
    return element("div", tiles(found), class_="above")


def _by(claim: Claim) -> str:
    return f"told apart by the field {claim.user_field}; " if claim.user_field else ""


def _curve(report: PrivacyReport) -> Markup | None:
    chart = epsilon_chart(report.accounting.curve, report.claim.delta, report.claim.epsilon)
    if chart is None:
        return None
    said = element(
        "p",
        "One run has one such curve: whoever wants a smaller delta gets a larger epsilon. The "
        "claim is a point on it, by the privacy loss distribution (PLD). The two other "
        "accountants are other code, and check it: Rényi accounting (RDP) must never be below.",
    )
    versions = ", ".join(f"{name} {one}" for name, one in report.accounting.packages.items())
    return part("Epsilon for each delta", said, chart, element("p", versions, class_="soft"))


def _evidence(report: PrivacyReport) -> Markup:
    evidence, claim = report.evidence, report.claim
    said = element(
        "p",
        "Attacks on this very model. They can show that a claim is false, never that it is true; "
        "what protects is the proof. Intervals hold with the confidence that is named.",
    )
    rows: list[tuple[Child, ...]] = []
    if (audit := evidence.audit) is not None:
        verdict = "more than is claimed" if audit.lower_bound > claim.epsilon else "below the claim"
        rows.append(
            (
                "Lower bound on epsilon, one-run audit",
                f"{audit.lower_bound:.3g} ({verdict}, {claim.epsilon:.3g})",
                f"{audit.correct:,} of {audit.guesses:,} guesses right, "
                f"{audit.canaries:,} canaries, {audit.confidence:.0%}; it could have shown "
                f"{audit.ceiling:.3g} at most",
            )
        )
    if (exposure := evidence.exposure) is not None:
        low, high = exposure.mean_interval[0], exposure.mean_interval[-1]
        rows.append(
            (
                "Exposure of planted records, mean",
                f"{exposure.mean_bits:.2f} bits ({low:.2f} – {high:.2f})",
                f"records never seen: {exposure.unseen_mean_bits:.2f}; most that could show: "
                f"{exposure.limit_bits:.1f}; largest: {exposure.max_bits:.2f}",
            )
        )
    rows += _membership_rows("Planted records told from left-out ones", evidence.canary_membership)
    rows += _membership_rows("Real records told from others", evidence.membership)
    if not rows:
        return part("What attacks found", element("p", "No audit was made.", class_="soft"))
    return part("What attacks found", said, table(("Attack", "Found", "How"), rows))


def _membership_rows(name: str, found: Membership | None) -> list[tuple[Child, ...]]:
    if found is None:
        return []
    sizes = f"{found.members:,} and {found.nonmembers:,} records, {found.confidence:.0%}"
    rate, rates = found.tpr_at_1_percent_fpr, found.tpr_interval
    return [
        (
            f"{name}: AUC",
            f"{found.auc:.3f} ({found.auc_interval[0]:.3f} – {found.auc_interval[-1]:.3f})",
            f"0.5 is guessing; {sizes}",
        ),
        (
            f"{name}: found at 1% false alarms",
            f"{100 * rate:.1f}% ({100 * rates[0]:.1f} – {100 * rates[-1]:.1f})",
            f"false alarms in fact: {100 * found.fpr:.1f}%",
        ),
    ]


def _mechanism(report: PrivacyReport) -> Markup:
    one, claim = report.mechanism, report.claim
    cap = "no limit" if one.cap is None else f"{one.cap:,}"
    # Those that were planted take places, whatever their coins said.
    planted = ", canaries included" if report.evidence.canaries_sha256 else ""
    rows = (
        ("Noise multiplier (sigma)", f"{one.noise_multiplier:.4g}"),
        ("Noise", f"{one.noise}; {report.randomness.source}"),
        ("Clipping", f"{one.clipping}, at {one.clip_norm:g} a record"),
        ("Most that one unit adds to a sum", f"{one.sensitivity:g}"),
        (f"{claim.unit.title()}s in the data", f"{one.units:,}{planted}"),
        ("Chance to be in a batch (q)", f"{one.sampling_probability:.4g}"),
        ("Sampling", claim.sampling),
        ("Expected batch; cap", f"{one.expected_batch:,}; {cap}"),
        ("Updates (T)", f"{one.steps:,}"),
        ("Noise-to-batch ratio", f"{one.noise_to_batch_ratio:.3g}"),
        ("Optimizer", one.optimizer),
        ("Trained", f"{one.trained}, {numbers.count(one.trained_parameters)} parameters"),
        ("Arithmetic", report.randomness.arithmetic),
        ("What the arithmetic guarantees", report.randomness.guarantee),
    )
    return part("How it was done", table(("", ""), rows))


def _composition(report: PrivacyReport) -> Markup:
    composed, claim = report.composition, report.claim
    budget = composed.budget
    limit = "none set"
    if budget is not None:
        limit = f"epsilon {budget.epsilon:.4g} at delta {budget.delta:.4g}"
    facts = (
        ("Data", element("bdi", composed.dataset)),
        (
            "This run alone",
            f"epsilon {composed.epsilon_of_this_run:.4g} at delta {claim.delta:.4g}",
        ),
        ("All of it: the claim", f"epsilon {claim.epsilon:.4g} at delta {claim.delta:.4g}"),
        ("Tuning runs counted", f"{composed.tuning_runs}"),
        ("Budget of the data's owner", limit),
        ("Ledger's last line", _digest(composed.ledger_head or "no ledger was kept")),
    )
    content: list[Child] = [table(("", ""), facts)]
    if budget is not None and budget.delta != claim.delta:
        content.append(
            element(
                "p",
                "Epsilon and delta go together: for the same releases a smaller delta gives a "
                "larger epsilon. The budget has a delta of its own, so what is used of it is not "
                "the claim's epsilon; the ledger says it.",
                class_="soft",
            )
        )
    if composed.earlier:
        rows = [
            (
                str(number),
                f"{one.steps:,}",
                f"{one.sampling_probability:.4g}",
                f"{one.noise_multiplier:.4g}",
                one.sampler,
            )
            for number, one in enumerate(composed.earlier, 1)
        ]
        heading = ("Earlier release", "Updates", "q", "Sigma", "Sampler")
        content.append(element("div", table(heading, rows, class_="numbers"), class_="above"))
    return part("What the claim adds up", *content)


def _not_protected(report: PrivacyReport) -> Markup | None:
    if not report.not_protected:
        return None
    items = (element("li", each) for each in report.not_protected)
    return part("What this does not protect", element("ul", *items))


def _hazards(report: PrivacyReport) -> Markup | None:
    if not report.hazards:
        return None
    said = element(
        "p",
        "The levels of NIST SP 800-226, Guidelines for Evaluating Differential Privacy "
        "Guarantees (2025), as questions. The wording is this report's own.",
        class_="soft",
    )
    cards = (
        element("div", element("h3", each.name), element("p", each.answer))
        for each in report.hazards
    )
    return part("Known hazards, one by one", said, element("div", *cards, class_="card stack"))


def _footer(report: PrivacyReport) -> Markup:
    model = report.model
    text = (
        "This page is drawn from privacy.json, which is bound to the weights "
        f"{model.weights_sha256} and the training record {model.training_sha256}. It is as "
        "trustworthy as who signed the checkpoint or the bundle: casemate verify."
    )
    return element("footer", text)


def _digest(text: str) -> Markup:
    return element("code", text, class_="digest")
