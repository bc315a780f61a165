"""Choose: the fastest within the promise, for the load that was asked for.

The speed of a candidate is how many times the reference's it is, in the rate that the load
is about: decoding for one client, for sixteen, reading prompts; or its size. Where two are
as good as equally fast the one closer to the reference is chosen: a difference that the
clock can barely see is not worth an answer that differs. What was timed in less than half
as many rounds as another is not chosen while there is another: one round can be lucky.

What is chosen differs from the reference by its file. Other settings for a file (threads, flash
attention, repacking) are no choice: a bundle cannot carry them. They are advice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compiler.errors import PromiseError, SearchError
from compiler.tune.candidate import REFERENCE, SETTINGS, Quality, Trial
from compiler.tune.pareto import pareto_front
from compiler.tune.promise import CLAUSES, Promise
from security.strictjson import JsonValue

SIZE: Final = "size"
PREFILL: Final = "prefill"
# Speeds that differ by less are equal: rounds on a quiet machine repeat this well.
EQUAL_SPEED: Final = 0.02
_RATE = re.compile(r"(?:decode@(\d+)|encode@(\d+)x\d+)")


@dataclass(frozen=True, slots=True)
class Load:
    """What the chosen form is to be fast at.

    Attributes:
        clients: requests at once; None for `kind` "size" or "prefill".
        kind: "clients", "prefill" or "size".
    """

    clients: int | None = 1
    kind: str = "clients"

    @classmethod
    def parse(cls, text: str) -> Load:
        """Return the load that `--for text` means: a number of clients, prefill or size.

        Raises:
            SearchError: it means none of these.
        """
        if text in (SIZE, PREFILL):
            return cls(None, text)
        if re.fullmatch(r"[1-9][0-9]{0,3}", text) is None:
            raise SearchError("--for takes a number of clients, 'prefill' or 'size'")
        return cls(int(text))

    @property
    def label(self) -> str:
        """As `parse` reads it."""
        return str(self.clients) if self.clients is not None else self.kind

    def rates(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of the measured rates this load is about; for size the first batch.

        Raises:
            SearchError: none of them is.
        """
        if self.kind == PREFILL:
            found = tuple(name for name in names if name.startswith("prefill@"))
        else:
            wanted = self.clients or 1
            batches = {name: _batch(name) for name in names}
            known = {batch for batch in batches.values() if batch is not None}
            nearest = min(known, key=lambda one: abs(math.log(one / wanted)), default=None)
            found = tuple(name for name in names if nearest and batches[name] == nearest)
        if not found:
            raise SearchError(f"no rate was measured for --for {self.label}")
        return found

    def gain(self, trial: Trial) -> float:
        """Return how many times the reference's speed a timed trial has for this load.

        Where the load is about several rates it is their geometric mean.
        """
        names = self.rates(sorted(trial.rounds[0].speed.rates))
        logs = [math.log(trial.ratio(name).median) for name in names]
        return math.exp(sum(logs) / len(logs))


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, out of what.

    Attributes:
        chosen: fastest (smallest, for size) within the promise.
        front: trials that none beats in speed for the load and in loss, by rising loss.
        within: all timed trials that keep the promise.

    None of them differs from another in its settings alone.
    """

    chosen: Trial
    front: tuple[Trial, ...]
    within: tuple[Trial, ...]


def choose(trials: Sequence[Trial], promise: Promise, load: Load) -> Choice:
    """Choose among trials, the reference included.

    Raises:
        PromiseError: none keeps the promise; names the closest and its figures.
        SearchError: nothing was timed.
    """
    timed = [
        one
        for one in trials
        if one.rounds and one.quality and one.dropped is None and one.candidate.family != SETTINGS
    ]
    if not timed:
        raise SearchError("nothing was timed; give the search more time")
    within = [one for one in timed if one.quality and not promise.broken(one.quality)]
    front = pareto_front(timed, load.gain, loss)
    if not within:
        raise PromiseError(_unreachable(trials, promise))
    if load.kind == SIZE:
        chosen = min(within, key=lambda one: (one.size_bytes or math.inf, loss(one)))
    else:
        settled = _settled(within)
        fastest = max(load.gain(one) for one in settled)
        as_fast = [one for one in settled if load.gain(one) >= fastest * (1 - EQUAL_SPEED)]
        chosen = min(as_fast, key=lambda one: (loss(one), one.size_bytes or 0))
    return Choice(chosen, tuple(front), tuple(within))


def _settled(trials: Sequence[Trial]) -> list[Trial]:
    """Leave out what has too few rounds beside the others: its speed may be one lucky round.

    The reference has a round in every group and the ratio of one in all: it sets no measure.
    """
    rounds = {
        one.candidate.digest: len(one.rounds) for one in trials if one.candidate.family != REFERENCE
    }
    most = max(rounds.values(), default=0)
    return [one for one in trials if 2 * rounds.get(one.candidate.digest, most) >= most]


def settings_advice(trials: Sequence[Trial], chosen: Trial, load: Load) -> tuple[str, ...]:
    """Return how fast the chosen file is with other settings, by those of an appliance.

    For people: "with threads 1: 87% of the speed (1 round)". A bundle carries none of it.
    """
    found = []
    for one in trials:
        known = one.rounds and one.dropped is None and one.candidate.family == SETTINGS
        if known and one.candidate.plan_digest == chosen.candidate.plan_digest:
            share = load.gain(one) / load.gain(chosen)
            usual = chosen.candidate.settings
            changed = {
                name: value
                for name, value in one.candidate.settings.items()
                if usual.get(name) != value
            }
            rounds = f"{len(one.rounds)} round{'s' if len(one.rounds) > 1 else ''}"
            found.append(f"with {said_settings(changed)}: {share:.0%} of the speed ({rounds})")
    return tuple(found)


def said_settings(settings: Mapping[str, JsonValue]) -> str:
    """Return settings in words, such as "threads 1, extra buffers off"."""
    words = {True: "on", False: "off"}
    return ", ".join(
        f"{name.replace('_', ' ')} {words[value] if isinstance(value, bool) else value}"
        for name, value in settings.items()
    )


def loss_of(quality: Quality | None) -> float | None:
    """Return the figure that a front is drawn over: divergence, else what is lost.

    None where none was measured; infinite where it is no number.
    """
    if quality is None:
        return None
    if quality.kl_mean is not None:
        found = quality.kl_mean
    elif quality.spearman is not None:
        found = 1.0 - quality.spearman
    elif quality.accuracy_drop is not None:
        found = quality.accuracy_drop
    else:
        return None
    return max(0.0, found) if math.isfinite(found) else math.inf


def loss(trial: Trial) -> float:
    """Return `loss_of` a trial; infinite where nothing was measured."""
    found = loss_of(trial.quality)
    return math.inf if found is None else found


def loss_name(trial: Trial) -> str:
    """Return what `loss` is of a trial, in words."""
    quality = trial.quality
    if quality is None or quality.kl_mean is not None:
        return "Mean KL divergence"
    return "1 - Spearman correlation" if quality.spearman is not None else "Accuracy lost"


def _unreachable(trials: Sequence[Trial], promise: Promise) -> str:
    # What was seen of a part of the texts beside what was seen of all would mislead.
    judged = [one for one in trials if one.quality is not None and not one.quick]
    kept = [one for one in judged if one.quality and not promise.broken(one.quality)]
    if kept:
        why = kept[0].dropped or "it was not timed; give the search more time"
        return (
            f"nothing that was timed keeps the promise ({promise.name}); "
            f"{kept[0].candidate.label!r} would: {why}"
        )
    closest = min(
        judged,
        key=lambda one: promise.worst_excess(one.quality) if one.quality else math.inf,
    )
    quality = closest.quality
    figures = []
    for clause in CLAUSES:
        value = getattr(quality, clause.figure)
        if clause.name in promise.bounds and value is not None:
            figures.append(f"{clause.words} {value:.4g}")
    broken = "; ".join(promise.broken(quality)) if quality is not None else ""
    return (
        f"no candidate keeps the promise ({promise.name}). Closest is "
        f"{closest.candidate.label!r}: {', '.join(figures) or 'no figure was measured'}. "
        f"Broken: {broken}. Promise less, or begin with a better model"
    )


def _batch(rate: str) -> int | None:
    match = _RATE.fullmatch(rate)
    return int(match[1] or match[2]) if match else None
