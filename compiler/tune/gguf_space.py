"""Which forms of a GGUF model are worth trying, in the order that finds good ones early.

Most bytes of a small model are its output layer, most of its wit is in its other layers. So
the output layer is tried in every narrower format that fits, apart from the embedding where
one tensor is both (untied: text goes in exactly, only scores are rounded) and as one with
it; whole-model formats come second. Each 4- and 5-bit format is tried with llama.cpp's own
rounding and with rounding that looks at calibration text. Around what was found, layers
are narrowed one by one, the least sensitive first, as far as the promise lets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from compiler.llama.gguf_file import Tensor
from compiler.llama.plan import EMBEDDING, KEEP, OUTPUT, TYPE_NUMBERS, GgufPlan, is_tied
from compiler.llama.rounding import GRIDS
from compiler.progress import Progress
from compiler.tune.candidate import REFERENCE, SETTINGS, Candidate
from compiler.tune.choose import said_settings
from security.bundle.manifest import LLAMA_CPP
from security.preparse.gguf_types import TENSOR_TYPES
from security.strictjson import JsonValue

PLAIN, IMATRIX, FEEDBACK = "plain", "imatrix", "feedback"
# From the widest to the narrowest. K-quants need rows of multiples of 256.
_FORMATS: Final = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "IQ4_NL", "Q4_0")
_NARROW_BITS: Final = 5.0
_FEEDBACK_BITS: Final = 6.0
_FLOAT_BITS: Final = 16.0
# Tied outputs change the embedding too; a few show what that costs.
_TIED: Final = ("Q5_0", "IQ4_NL", "Q4_0")
_MIXES: Final = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Sensitive:
    """How much narrowing one group of layer tensors costs, such as every "ffn_down".

    Attributes:
        group: its name, as in `blk.N.GROUP.weight`.
        format: that it was narrowed to.
        divergence: the mean KL divergence of the model with this group alone narrowed.
        saved_bytes: what that makes the file smaller.
    """

    group: str
    format: str
    divergence: float
    saved_bytes: int


Ranking = Callable[[str, Progress], Sequence[Sensitive]]
"""Measures what each group of layer tensors costs in a format."""


class GgufSpace:
    """The candidates of one GGUF file."""

    def __init__(
        self,
        tensors: Sequence[Tensor],
        settings: dict[str, JsonValue],
        *,
        calibrated: bool,
        max_kl: float | None,
        ranking: Ranking | None = None,
        runs_here: bool = True,
    ) -> None:
        """Look at a file's tensors.

        Args:
            tensors: all of them.
            settings: how candidates are run unless settings themselves are tried.
            calibrated: whether there is text to make an importance matrix of.
            max_kl: the promise's bound, which mixes are aimed at; None makes none.
            ranking: measures sensitivities, for mixes; None makes none.
            runs_here: whether settings can be tried; a prediction knows nothing of them.
        """
        self._matrices = [one for one in tensors if one.is_matrix]
        self._tied = is_tied(tensors)
        self._settings = settings
        self._calibrated = calibrated
        self._max_kl = max_kl
        self._ranking = ranking
        self._runs_here = runs_here
        self._rankings: dict[str, Sequence[Sensitive]] = {}

    @property
    def reference(self) -> Candidate:
        """The file as it is."""
        return self._candidate(GgufPlan(), REFERENCE, "as given")

    @property
    def ranked(self) -> list[Sensitive]:
        """What was learnt of the layers' sensitivity on the way."""
        return [one for ranking in self._rankings.values() for one in ranking]

    def seeds(self) -> list[Candidate]:
        """Return output layers before whole models, cheap rounding first, narrow formats first."""
        found = [*self._outputs(), *self._wholes()]
        # Error feedback takes longest: by then what plain rounding does is known.
        order = {PLAIN: 0, IMATRIX: 1, FEEDBACK: 2}
        found.sort(
            key=lambda one: (one.family != "output", order[GgufPlan.from_dict(one.plan).rounding])
        )
        return list({one.digest: one for one in found}.values())

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        """Return mixes around the best within the promise and around the closest beyond it."""
        found: list[Candidate] = []
        if self._ranking is not None and self._max_kl is not None:
            for best in kept[:2]:
                found += self._narrowed(GgufPlan.from_dict(best.plan), best.label, progress)
            plans = [(GgufPlan.from_dict(one.plan), one.label) for one in left]
            whole = [one for one in plans if one[0].default in TYPE_NUMBERS and not one[0].tensors]
            for plan, label in whole[:1]:
                found += self._widened(plan, label, progress)
        return list({one.digest: one for one in found}.values())

    def settings(self, best: Candidate) -> list[Candidate]:
        """Return fewer threads, the other cache and batch settings, and no repacking."""
        if not self._runs_here:
            return []
        threads = self._settings.get("threads", 1)
        most = threads if isinstance(threads, int) else 1
        changes: list[dict[str, JsonValue]] = [
            {"threads": count} for count in sorted({1, most // 2, most - 1}) if 0 < count < most
        ]
        changes += [
            {name: not self._settings[name]}
            for name in ("extra_buffers", "flash")
            if name in self._settings
        ]
        return [
            replace(
                best,
                family=SETTINGS,
                label=f"{best.label}; {said_settings(change)}",
                settings={**self._settings, **change},
            )
            for change in changes
        ]

    def _outputs(self) -> list[Candidate]:
        head = self._head()
        if head is None:
            return []
        untied, tied = [], []
        for kind in reversed(_FORMATS):
            if not _narrower(head, kind):
                continue
            for rounding in self._roundings(kind):
                plan = GgufPlan(output=kind, untie=self._tied, rounding=rounding)
                untied.append(self._candidate(plan, "output", f"output {kind}{_round(rounding)}"))
            if self._tied and kind in _TIED:
                plan = GgufPlan(output=kind)
                tied.append(self._candidate(plan, "output", f"output and embedding {kind}"))
        return untied + tied

    def _wholes(self) -> list[Candidate]:
        """Whole models: every format for one in floats, the narrowest for others."""
        layers = [one for one in self._matrices if one.name not in (EMBEDDING, OUTPUT)]
        if not layers:
            return []
        bits = sum(8 * one.size_bytes for one in layers) / sum(
            one.columns * one.rows for one in layers
        )
        kinds = _FORMATS if bits >= _FLOAT_BITS else ("Q4_0",)
        found = []
        for kind in kinds:
            if not any(_narrower(one, kind) for one in layers):
                continue
            # Narrow layers of a model that is narrow already are ruined however they are rounded.
            roundings = self._roundings(kind) if bits >= _FLOAT_BITS else (PLAIN,)
            head = self._head()
            wide = head is not None and _narrower(head, kind)
            for rounding in roundings:
                # Second moments are gathered of the output layer alone.
                layers_by = IMATRIX if rounding == FEEDBACK else rounding
                plan = GgufPlan(default=kind, embedding=KEEP, rounding=layers_by)
                if not self._tied:
                    plan = replace(plan, output=KEEP)
                said = f"layers {kind}{_round(layers_by)}"
                found.append(self._candidate(plan, "whole", f"{said}, output as given"))
                if wide:
                    both = replace(plan, output=kind, untie=self._tied, rounding=rounding)
                    label = f"{said}, output {kind}{_round(rounding)}"
                    found.append(self._candidate(both, "whole", label))
        return found

    def _narrowed(self, plan: GgufPlan, label: str, progress: Progress) -> list[Candidate]:
        """Narrow layers of a plan that leaves them as given, the cheapest first.

        The shares of the bound that `_MIXES` spend assume that divergences add up, which
        they do roughly while they are small.
        """
        if plan.default != KEEP or plan.tensors or self._max_kl is None:
            return []
        ranking = self._ranked("Q4_0", progress)
        found = []
        for share in _MIXES:
            chosen, spent = [], 0.0
            for one in ranking:
                if spent + one.divergence > share * self._max_kl:
                    break
                chosen.append(one.group)
                spent += max(0.0, one.divergence)
            if chosen:
                mixed = replace(plan, tensors=_named(chosen, "Q4_0"))
                said = f"{label}; layers' {', '.join(sorted(chosen))} Q4_0"
                found.append(self._candidate(mixed, "mix", said))
        return found

    def _widened(self, plan: GgufPlan, label: str, progress: Progress) -> list[Candidate]:
        """Give the most sensitive layers of a whole-model plan their given format back."""
        worst = list(reversed(self._ranked(plan.default, progress)))
        found = []
        for share in _MIXES[:-1]:
            kept = [one.group for one in worst[: max(1, round(share * len(worst)))]]
            mixed = replace(plan, tensors=_named(kept, KEEP))
            said = f"{label}; layers' {', '.join(sorted(kept))} as given"
            found.append(self._candidate(mixed, "mix", said))
        return found

    def _ranked(self, kind: str, progress: Progress) -> Sequence[Sensitive]:
        """Return groups by divergence for each byte saved, the cheapest first."""
        if kind not in self._rankings and self._ranking is not None:
            known = [one for one in self._ranking(kind, progress) if one.saved_bytes > 0]
            known.sort(key=lambda one: one.divergence / one.saved_bytes)
            self._rankings[kind] = known
        return self._rankings.get(kind, ())

    def _roundings(self, kind: str) -> tuple[str, ...]:
        if not self._calibrated or _bits(kind) > _FEEDBACK_BITS:
            return (PLAIN,)
        if kind not in GRIDS:
            return (IMATRIX, PLAIN)
        return (FEEDBACK, IMATRIX, PLAIN) if _bits(kind) < _NARROW_BITS else (FEEDBACK, PLAIN)

    def _head(self) -> Tensor | None:
        name = EMBEDDING if self._tied else OUTPUT
        return next((one for one in self._matrices if one.name == name), None)

    def _candidate(self, plan: GgufPlan, family: str, label: str) -> Candidate:
        return Candidate(LLAMA_CPP, label, family, plan.to_dict(), self._settings)


def _bits(kind: str) -> float:
    one = TENSOR_TYPES[TYPE_NUMBERS[kind]]
    return 8 * one.block_bytes / one.block_elements


def _narrower(tensor: Tensor, kind: str) -> bool:
    """Tell whether a tensor can take a format, and would be smaller in it."""
    fits = tensor.columns % TENSOR_TYPES[TYPE_NUMBERS[kind]].block_elements == 0
    return fits and _bits(kind) < _bits(tensor.type)


def _named(groups: Sequence[str], kind: str) -> tuple[tuple[str, str], ...]:
    return tuple((rf"blk\.\d+\.{re.escape(name)}\.weight", kind) for name in sorted(groups))


def _round(rounding: str) -> str:
    return {PLAIN: "", IMATRIX: " (importance matrix)", FEEDBACK: " (error feedback)"}[rounding]
