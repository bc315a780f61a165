"""What privacy cost: a private checkpoint and its twin on the very same examples.

The twin is what the same recipe gives without privacy. Both are measured target by
target, so that the intervals of differences are paired: two models that err on the same
examples are told apart by fewer of them.

    one target an example    accuracy; intervals of Wilson (1927), of differences those of
                             Agresti and Min (2005)
    several                  accuracy of tags, loss of tokens; bootstrap over examples, since
                             targets of one text are not independent

It refuses a pair that cannot be compared (other labels, tokenizer or task) and a twin that
is private itself. Nothing of the texts is kept but the names of groups.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.data.assemble import evaluation_data
from trainer.evaluation.checkpoint import fitting, own_objective
from trainer.evaluation.metrics import wilson_interval
from trainer.evaluation.network import Progress
from trainer.evaluation.opening import OpenCheckpoint, open_checkpoint, require_fit
from trainer.evaluation.targets import Targets, score_targets
from trainer.privacy.errors import PrivacyError
from trainer.privacy.record import REPORT_NAME
from trainer.privacy.sections import GroupUtility, Utility
from trainer.privacy.utility_groups import Groups, by_field, by_label
from trainer.recipe.schema import DataOptions

CONFIDENCE: Final = 0.95
# Two-sided 95% of the standard normal distribution.
_Z: Final = 1.959963984540054
_RESAMPLES: Final = 2000
_SEED: Final = 20_050_101
_LABELLED: Final = ("classification", "tagging")

Floats = NDArray[np.float64]


def measure_utility(
    private: Path,
    twin: Path,
    paths: Sequence[Path],
    *,
    data: DataOptions | None = None,
    group_field: str = "",
    start: Path | None = None,
    device: str = "auto",
    batch: int = 16,
    progress: Progress | None = None,
) -> Utility:
    """Measure a private checkpoint beside its twin.

    Args:
        private: checkpoint directory of the private run.
        twin: checkpoint directory of the same recipe without privacy.
        paths: files that neither was trained on.
        data: how to read them; None takes the private recipe's options.
        group_field: field of labelled examples whose values are groups; "" for labels alone.
        start: for text, the model that both began with: what no training gives.
        device: "auto", "cpu" or "cuda".
        batch: examples of one forward pass.
        progress: is told (examples seen, examples in all), for one model after another.

    Raises:
        PrivacyError: the two cannot be compared.
        CheckpointError, DataError, RecipeError: as opening and reading raise them.
    """
    if (twin / REPORT_NAME).exists():
        raise PrivacyError(
            f"{twin} is private itself ({REPORT_NAME}); a twin is trained by the same recipe with "
            "privacy.enabled=false"
        )
    opened = open_checkpoint(private, device)
    objective = own_objective(opened)
    options = fitting(opened, data)
    # A folder on the disk that will hold the shards only while they are read.
    with tempfile.TemporaryDirectory(prefix="casemate-compare-") as scratch:
        dataset = evaluation_data(
            [str(path) for path in paths],
            objective=objective,
            data=options,
            tokenizer=opened.tokenizer,
            labels=opened.network.labels,
            folder=Path(scratch),
        )

        def score(checkpoint: OpenCheckpoint) -> Targets:
            require_fit(checkpoint, objective.kind)
            return score_targets(
                checkpoint.network,
                dataset,
                device=checkpoint.device,
                batch=batch,
                progress=progress,
            )

        own = score(opened)
        others = score(_alike(opened, twin, device))
        begun = None if start is None else score(_alike(opened, start, device))
        labels = opened.network.labels if objective.kind in _LABELLED else ()
        groups = by_label(own, labels)
        if group_field:
            groups |= by_field(own, dataset, paths, options, group_field)
    pair = _Pair(own, others, len(dataset), labelled=bool(labels))
    return pair.utility(_chance(own, labels, begun), groups)


def _alike(opened: OpenCheckpoint, folder: Path, device: str) -> OpenCheckpoint:
    """Open another checkpoint and check that it answers the same questions."""
    other = open_checkpoint(folder, device)
    for what, same in (
        ("labels", other.network.labels == opened.network.labels),
        ("tokenizer", other.tokenizer.digest == opened.tokenizer.digest),
        ("family", other.network.family == opened.network.family),
    ):
        if not same:
            raise PrivacyError(
                f"{folder} cannot be compared with {opened.folder}: it has another {what}"
            )
    return other


def _chance(own: Targets, labels: tuple[str, ...], begun: Targets | None) -> float | None:
    """Return what a model has that learned nothing of the texts."""
    if labels:
        # It may know how often each label occurs, and always name the commonest.
        return float(np.bincount(own.labels).max() / own.labels.size)
    return None if begun is None else float(begun.losses.mean())


class _Pair:
    """Figures of two models on the same targets: [low, high] of each, and of the difference."""

    def __init__(self, own: Targets, twin: Targets, examples: int, *, labelled: bool) -> None:
        self._items = own.items
        self._examples = examples
        self._labelled = labelled
        self._values = [
            one.right.astype(np.float64) if labelled else one.losses for one in (own, twin)
        ]
        self._single = labelled and np.unique(own.items).size == own.items.size

    def utility(self, chance: float | None, groups: Groups) -> Utility:
        everything = np.ones(self._items.shape, dtype=np.bool_)
        private, twin, cost = self._intervals(everything)
        own, other = self._means(everything)
        kept, kept_interval = self._kept(own, other, chance)
        return Utility(
            metric="accuracy" if self._labelled else "loss",
            higher_is_better=self._labelled,
            examples=self._examples,
            confidence=CONFIDENCE,
            private=own,
            private_interval=private,
            twin=other,
            twin_interval=twin,
            cost_interval=cost,
            chance=chance,
            kept=kept,
            kept_interval=kept_interval,
            groups=tuple(self._group(name, chosen) for name, chosen in groups.items()),
        )

    def _group(self, name: str, chosen: NDArray[np.bool_]) -> GroupUtility:
        private, twin, cost = self._intervals(chosen)
        own, other = self._means(chosen)
        examples = int(np.unique(self._items[chosen]).size)
        return GroupUtility(name, examples, own, private, other, twin, cost)

    def _means(self, chosen: NDArray[np.bool_]) -> tuple[float, float]:
        own, twin = (float(values[chosen].mean()) for values in self._values)
        return own, twin

    def _intervals(self, chosen: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
        """Return the intervals of the private figure, of the twin's, and of the cost."""
        own, twin = (values[chosen] for values in self._values)
        if self._single:
            wilson = [wilson_interval(int(one.sum()), one.size) for one in (own, twin)]
            return wilson[0], wilson[1], paired_interval(own, twin)
        means = self._resampled(chosen)
        difference = means[:, 1] - means[:, 0]
        cost = difference if self._labelled else -difference
        return _quantiles(means[:, 0]), _quantiles(means[:, 1]), _quantiles(cost)

    def _resampled(self, chosen: NDArray[np.bool_]) -> Floats:
        """Return the means of both models over resampled examples, f64[R, 2]."""
        _, items = np.unique(self._items[chosen], return_inverse=True)
        columns = [np.bincount(items)]
        columns += [np.bincount(items, weights=values[chosen]) for values in self._values]
        table = np.stack(columns, axis=1).astype(np.float64)
        draw = np.random.default_rng(_SEED)
        sums = np.stack(
            [
                np.bincount(draw.integers(len(table), size=len(table)), minlength=len(table))
                @ table
                for _ in range(_RESAMPLES)
            ]
        )
        means: Floats = sums[:, 1:] / sums[:, :1]
        return means

    def _kept(
        self, own: float, twin: float, chance: float | None
    ) -> tuple[float | None, tuple[float, ...]]:
        """Return the share of the twin's gain that is kept; None where it gained nothing."""
        if chance is None:
            return None, ()
        sign = 1.0 if self._labelled else -1.0
        if not sign * (twin - chance) > 0:
            return None, ()
        means = self._resampled(np.ones(self._items.shape, dtype=np.bool_))
        gains = sign * (means - chance)
        sound = gains[:, 1] > 0
        return (own - chance) / (twin - chance), _quantiles(gains[sound, 0] / gains[sound, 1])


def paired_interval(first: Floats, second: Floats) -> tuple[float, float]:
    """Return the 95% interval of the mean of `second` - `first`, of 0 and 1 in pairs.

    Wald's, with half an observation added to each of the four cells (Agresti and Min 2005),
    so that it has a width where all pairs agree.

    Args:
        first: f64[N].
        second: f64[N]; row i is of the same example as row i of `first`.
    """
    gained = float((second > first).sum()) + 0.5
    lost = float((second < first).sum()) + 0.5
    total = first.size + 2.0
    difference = (gained - lost) / total
    spread = _Z * math.sqrt(max(gained + lost - total * difference**2, 0.0)) / total
    return max(-1.0, difference - spread), min(1.0, difference + spread)


def _quantiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
