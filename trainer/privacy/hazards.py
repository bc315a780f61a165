"""The known ways to get differential privacy wrong, and how they stand with a model.

NIST SP 800-226 ("Guidelines for Evaluating Differential Privacy Guarantees", 2025) builds
a pyramid: what the guarantee says rests on algorithms, their implementation and the
security of the data, and at each level there are hazards. The names and questions here
are ours, in that order; the answers follow from a report's own values, so that none can
say what the record does not. They are for people: no machine decides by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from trainer.privacy.disparity import disparity_words
from trainer.privacy.record import PrivacyReport
from trainer.privacy.sections import Hazard

# What no report of ours can claim; each is said, so that nobody has to ask.
NOT_PROTECTED: Final = (
    "What is true of many people at once: a model learns it whether or not one of them takes part.",
    "The number of records and users, the names of the labels, and the recipe: they count as "
    "public.",
    "The tokenizer and the vocabulary: they must not come from the private data.",
    "Validation data: the figures measured on it are not noised. It must not hold the records "
    "that are to be protected. Where text is trained on and no validation file is named, part of "
    "the private records is held out for it: their figures, which are exact, are left out of "
    "training.json, and are in the logs, the report and the checkpoints of the run's folder.",
    "The loss, the clipped share and other figures that a run logs: they are for the "
    "data's owner, and are no part of what may be published.",
    "Checkpoints that a run resumes from, canaries.json, data.key and the ledger: they stay with "
    "the owner.",
    "Figures of this record that are exact, made without noise: those of real records in an audit "
    "(evidence.membership), and all of a comparison (utility), of groups and of the twin, whose "
    "weights were learned without privacy. Whoever publishes this record publishes them.",
    "Time, memory and traffic of the training run: whoever watches the machine may learn of "
    "the data.",
    "The data itself where it is stored. This is about what a finished model tells.",
)


def hazards_of(report: PrivacyReport) -> tuple[Hazard, ...]:
    """Return every hazard with its answer for this report."""
    return tuple(Hazard(name, answer(report)) for name, answer in _ANSWERS)


def _epsilon(report: PrivacyReport) -> str:
    claim = report.claim
    return (
        f"Epsilon is {claim.epsilon:.3g} at delta {claim.delta:.2g}. Small is below 1; up to "
        "about 8 is common for finetuning and protects well against attacks that are known; "
        "above 20 the proof says little. Delta is the chance that the bound does not hold, and is "
        f"below one in {report.mechanism.units:,}, the number of {claim.unit}s."
    )


def _unit(report: PrivacyReport) -> str:
    claim = report.claim
    if claim.unit == "user":
        return (
            f"All that one user contributed is protected together, up to {claim.contributions} "
            "records; further records of a user were left out. Users are told apart by the field "
            f"{claim.user_field!r} of the data: ask whether it stands for a person. Who has two "
            "names in it is protected as two users."
        )
    return (
        "One record is protected. A person with several records has several times the epsilon, so "
        "this fits data in which a person has one record, or where records are what must stay "
        "secret. Choose the unit 'user' otherwise."
    )


def _neighbours(report: PrivacyReport) -> str:
    meaning = {
        "zero-out": "one unit counts nothing; the number of units is public",
        "add-remove": "one unit is there or not",
        "substitute": "one unit is replaced by any other",
    }
    return (
        f"The relation is {report.claim.neighbours!r}: the model is compared with one for which "
        f"{meaning[report.claim.neighbours]}. Figures under another relation differ, up to a "
        "factor of two; compare like with like."
    )


def _composition(report: PrivacyReport) -> str:
    composed = report.composition
    text = (
        f"The claim adds up this run (epsilon {composed.epsilon_of_this_run:.3g} alone), "
        f"{_count(len(composed.earlier), 'earlier release')} of {composed.dataset!r} and "
        f"{_count(composed.tuning_runs, 'tuning run')}."
    )
    if composed.ledger_head is None:
        return text + " No ledger was kept, so releases elsewhere are not in it."
    text += (
        " They come from a ledger that is written before each update; an update that is repeated "
        "after a crash counts twice. Releases that are in no ledger are not in it."
    )
    if composed.budget is None:
        return text + (
            " It has no budget: unless the recipe names a ledger, it is the run's own and began at "
            "zero with its folder, so runs on this data in other folders are not in it."
        )
    return text + (
        " It is the owner's, with a budget, and holds the runs that named it; who can write to the "
        "file could put an older copy back between runs, which composition.ledger_head shows."
    )


def _sampling(report: PrivacyReport) -> str:
    if report.claim.sampling == "unamplified":
        return (
            "Batches were not drawn by secret coins, so the bound takes nothing off for sampling."
        )
    without = report.accounting.epsilon_unamplified
    beside = "" if without is None else f" Without that it would be {without:.3g}."
    return (
        "Each unit enters each batch by a secret coin of its own, anew for every update, and the "
        "accountant counts on exactly that. Shuffled batches, which many libraries use, leak more "
        f"than such an accountant says.{beside}"
    )


def _clipping(report: PrivacyReport) -> str:
    mechanism = report.mechanism
    return (
        f"Each record's gradient is bounded ({mechanism.clipping} clipping, at "
        f"{mechanism.clip_norm:g}) in float32 before it is added; one that is not finite counts as "
        "nothing. What the sum is divided by is fixed beforehand. Nothing in the model mixes "
        "records of a batch: such models are refused."
    )


def _randomness(report: PrivacyReport) -> str:
    return f"{report.randomness.source}. It is never seeded, stored or used again."


def _arithmetic(report: PrivacyReport) -> str:
    arithmetic, guarantee = report.randomness.arithmetic, report.randomness.guarantee
    return f"{_sentence(arithmetic)} {_sentence(guarantee)}"


def _correctness(report: PrivacyReport) -> str:
    text = _audited(report)
    if report.evidence.membership is None:
        return text
    return f"{text} Figures of real records (membership) are exact; no claim covers them."


def _audited(report: PrivacyReport) -> str:
    audit = report.evidence.audit
    if audit is None:
        return "The trained model was not audited. The proof is only as good as its implementation."
    share = f"{audit.correct} of {audit.guesses} guesses"
    found = (
        f"{audit.canaries} records were planted or left out by secret coins before training. An "
        f"attack on the finished model guessed {share} right, so with {audit.confidence:.0%} "
        f"confidence epsilon is at least {audit.lower_bound:.3g}."
    )
    if audit.lower_bound > report.claim.epsilon:
        return f"{found} THIS IS MORE THAN IS CLAIMED: the claim is false."
    if audit.ceiling <= report.claim.epsilon:
        return (
            f"{found} This does not contradict the claim, and could not have: so many canaries "
            f"show {audit.ceiling:.3g} at most."
        )
    return f"{found} This does not contradict the claim; no attack can prove it."


def _tuning(report: PrivacyReport) -> str:
    if runs := report.composition.tuning_runs:
        return f"The claim counts {_count(runs, 'run')} like this one that chose the recipe."
    return (
        "No tuning runs are in the claim beyond those in the ledger. If the recipe was chosen by "
        "trying others on this data elsewhere, epsilon is larger than it says."
    )


def _utility(report: PrivacyReport) -> str:
    utility = report.utility
    if utility is None:
        return "What privacy cost was not measured."
    text = f"{utility.metric}: {utility.private:.4g} with privacy, {utility.twin:.4g} without"
    if utility.kept is not None:
        text += f" ({utility.kept:.0%} of the gain is kept)"
    text += (
        "; these figures are exact, and the twin's come from weights learned without privacy: "
        "the claim covers none of them"
    )
    if not utility.groups:
        return f"{text}. By group it was not measured: noise weighs more on small groups."
    unequal = disparity_words(utility) or ("No group that was measured loses more than all do.",)
    return " ".join((f"{text}.", *unequal))


def _trust(report: PrivacyReport) -> str:
    return (
        "Whoever trains sees the data: this is the central model, and the trainer is trusted. Who "
        "has the finished model, all of its weights included, need not be."
    )


def _access(report: PrivacyReport) -> str:
    return (
        "Outside this report: who may read the data, the run's folder and its logs. The claim is "
        "about the exported weights alone."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


_ANSWERS: Final[tuple[tuple[str, Callable[[PrivacyReport], str]], ...]] = (
    ("Is epsilon small enough to mean something?", _epsilon),
    ("Whom does it protect?", _unit),
    ("Compared with what?", _neighbours),
    ("Does it cover everything that was released of this data?", _composition),
    ("Were hyperparameters tuned on the data?", _tuning),
    ("Is the sampling what the proof assumes?", _sampling),
    ("Is one record's influence really bounded?", _clipping),
    ("Could the noise be guessed?", _randomness),
    ("Does computer arithmetic break the proof?", _arithmetic),
    ("Does the code do what the proof says?", _correctness),
    ("What did privacy cost, and whom?", _utility),
    ("Who has to be trusted?", _trust),
    ("What about the data before and beside the model?", _access),
)
