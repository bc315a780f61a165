"""Whether a privacy claim comes along into a bundle that texts had a part in.

A claim covers whatever is computed from a model's weights and from nothing else that is private
(post-processing). Texts that a variant is calibrated on go into its numbers, and texts that
variants are judged on decide which of them is there; either may show what the texts hold. So a
claim goes along with our built-in texts, and with others only if whoever compiles declares them
public. Nobody can check that here: the statement of the conversion says who was asked.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.bundling.plan import Plan
from compiler.bundling.texts import Texts
from security.bundle.claim import REPORT_NAME


def carried(plan: Plan, texts: Texts, *, public_texts: bool) -> Plan:
    """Return the plan without its claim where texts that may be private have a part in it.

    Args:
        plan: of the bundle.
        texts: that variants are calibrated and judged on.
        public_texts: whether they were declared to hold nobody's private data.
    """
    records = plan.records
    if records is None or records.privacy is None or texts.built_in or public_texts:
        return plan
    note = (
        f"the claim of {plan.origin / REPORT_NAME} is not carried over, and the bundle makes none: "
        "the texts given (--calibration, --labelled) have a part in its variants, which may show "
        "what they hold. If they are public, say so with --public-texts; if not, compile without "
        "them"
    )
    return replace(plan, records=replace(records, privacy=None), note=note)
