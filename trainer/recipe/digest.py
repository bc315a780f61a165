"""What makes two recipes the same: the values that decide the result of a run.

Left out is what only says how a run is carried out (where, with how many ranks, how often
something is written), so that a run may be continued on another machine, in smaller
micro-batches or with other reports. Paths count by their last name: data may lie elsewhere
tomorrow, and what it holds is told by its own digests, not by its place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import PurePath
from typing import Any

from trainer.recipe.keys import PATH_KEYS
from trainer.recipe.schema import Recipe

# Sections and keys that decide nothing of the result but rounding.
CIRCUMSTANCES = frozenset(
    {
        "run.max_minutes",
        "run.device",
        "data.cache",
        "data.shard_tokens",
        "objective.chunk_tokens",
        "precision.compile",
        "precision.activation_checkpointing",
        "distribution",
        "checkpoint",
        "evaluation.samples",
        "evaluation.sample_tokens",
        "report",
    }
)
# Whether validation chooses the weights that are exported.
_CHOOSING = "checkpoint.keep_best"
# Validation decides only where it may stop the run early, or choose among its weights.
_VALIDATING = ("evaluation.every_steps", "evaluation.sequences")
# The other pairs of a forward pass are the negatives of contrastive learning; for every
# other objective gradients of passes just add up.
_NEGATIVES = "batch.micro_sequences"


def deciding_values(recipe: Recipe) -> dict[str, Any]:
    """Return `section.key` -> value (JSON types) of everything that decides the result."""
    values: dict[str, Any] = {}
    for section in dataclasses.fields(recipe):
        for key, value in dataclasses.asdict(getattr(recipe, section.name)).items():
            name = f"{section.name}.{key}"
            circumstance = section.name in CIRCUMSTANCES or name in CIRCUMSTANCES
            if circumstance and name != _CHOOSING:
                continue
            if name in _VALIDATING and not (
                recipe.evaluation.patience or recipe.checkpoint.keep_best
            ):
                continue
            if name == _NEGATIVES and recipe.objective.kind != "contrastive":
                continue
            values[name] = _plain(name, value)
    return values


def recipe_digest(recipe: Recipe) -> str:
    """Return the SHA-256, in hexadecimal, of the values that decide the result.

    It is taken over their JSON with sorted keys and without spaces, in UTF-8.
    """
    text = json.dumps(
        deciding_values(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def differences(earlier: Recipe, now: Recipe) -> list[str]:
    """Return a line for each deciding value that differs: "run.steps was 100, is 200"."""
    before, after = deciding_values(earlier), deciding_values(now)
    return [
        f"{name} was {_shown(before.get(name))}, is {_shown(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(name, each) for each in value]
    return PurePath(value).name if name in PATH_KEYS else value


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
