"""A stranger's config.json as values that decide shapes and nothing else.

transformers reads more out of a configuration than a network's shape: other files to
take weights from, an attention function to fetch from its hub and run, classes that are
code of the directory, data types by name. Such keys are dropped here, at every depth, so
that whatever is left can be wrong but cannot lead anywhere.

What is refused: counts that no weights file beside them could stand for, which would keep
a machine busy or fill its memory before the weights are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from transformers import CONFIG_MAPPING, PretrainedConfig

from trainer.errors import CheckpointError, RecipeError
from trainer.models.weights import CONFIG_FILE, StoredWeights

# Keys with an underscore in front are transformers' own state and go as well.
_LEADING_ELSEWHERE: Final = frozenset(
    {
        "adapter_config",
        "auto_map",
        "configuration_files",
        "custom_pipelines",
        "device_map",
        "dtype",
        "gguf_file",
        "name_or_path",
        "subfolder",
        "torch_dtype",
        "trust_remote_code",
        "transformers_version",
        "transformers_weights",
        "use_kernels",
    }
)
_LEADING_PARTS: Final = ("attn_implementation", "experts_implementation", "tp_plan", "pp_plan")
# Of these, one stored tensor at least has as many entries along one side.
_SIDES: Final = ("vocab_size", "hidden_size", "d_model", "n_embd", "dim")
# Counts of modules that a network is made of: each has a tensor of its own.
_MODULES: Final = ("layer", "expert", "block", "stage", "labels", "depth")
_WIDTHS: Final = ("size", "width", "dim", "capacity")
_MODULES_FLOOR: Final = 512
_LABELS: Final = ("label2id", "id2label")
_LARGEST: Final = {"position": 1 << 24, "context": 1 << 24, "ctx": 1 << 24}
_LARGEST_OF_ALL: Final = 1 << 40


def clean(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without the keys that lead elsewhere, in subconfigurations too."""
    return {
        key: value if key in _LABELS else _clean(value)
        for key, value in values.items()
        if not key.startswith("_")
        and key not in _LEADING_ELSEWHERE
        and not any(part in key for part in _LEADING_PARTS)
    }


def make_config(values: Mapping[str, Any], where: Path) -> PretrainedConfig:
    """Make the configuration of an architecture that transformers has, from JSON values.

    Args:
        values: with `model_type`; they are cleaned here.
        where: the directory, for messages.

    Raises:
        CheckpointError: the architecture is unknown here, or the values are not its own.
        RecipeError: the weights are quantized.
    """
    if values.get("quantization_config"):
        raise RecipeError(f"{where} holds quantized weights, which cannot be trained")
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{where}/{CONFIG_FILE} names no architecture that the installed transformers can "
            f"read without code from the directory: {str(kind)[:200]!a}"
        )
    own = clean(values)
    if "id2label" in own:
        # They say how many there are; a number beside them would win.
        own.pop("num_labels", None)
    config: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(own)
    return config


def require_counts(values: Mapping[str, Any], stored: StoredWeights, *, sides: bool = True) -> None:
    """Refuse counts that the stored weights cannot stand for.

    Args:
        values: of config.json.
        stored: what lies beside it.
        sides: whether tables and widths are called what transformers calls them.

    Raises:
        CheckpointError: one does not fit.
    """
    where = stored.folder / CONFIG_FILE
    modules = max(_MODULES_FLOOR, len(stored.shapes))
    for key, value in _numbers(values):
        least, limit = -_LARGEST_OF_ALL, _LARGEST_OF_ALL
        if not key.endswith("_id"):
            if any(word in key for word in _MODULES) and not any(w in key for w in _WIDTHS):
                least, limit = 0, modules
            limit = min([limit, *(most for word, most in _LARGEST.items() if word in key)])
        if not least <= value <= limit:
            raise CheckpointError(
                f"{where} has {key} {value}, and the weights beside it allow {least} to {limit}; "
                "the files are not of one model"
            )
    lengths = {side for shape in stored.shapes.values() for side in shape}
    for key in _SIDES if sides else ():
        side = values.get(key)
        if isinstance(side, int) and side not in lengths:
            raise CheckpointError(
                f"{where} has {key} {side}, and no tensor beside it has such a side; the files "
                "are not of one model"
            )


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return clean(value)
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return value


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield every integer under its key, at any depth, but those of names of labels."""
    for key, value in values.items():
        if key in _LABELS:
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from _numbers(each)
            elif isinstance(each, int) and not isinstance(each, bool):
                yield key, each
