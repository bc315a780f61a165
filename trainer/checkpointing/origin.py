"""Gathers what a `TrainingRecord` says of a run: code, machine, parent, recipe, data.

Nothing here asks git or a network: an installed package has neither. The digest of the
trainer's source files tells what really ran, edited or not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Final

import torch

import casemate
import trainer
from security.strictjson import MAX_SAFE_INTEGER
from trainer.checkpointing.files import sha256_file
from trainer.checkpointing.keyed import keyed
from trainer.checkpointing.record import (
    RECORD_NAME,
    CodeVersion,
    Environment,
    Parent,
    Source,
    TrainingRecord,
)
from trainer.errors import CheckpointError
from trainer.models.weights import Origin, digest_of, sha256_regular, weight_files
from trainer.recipe.describe import all_values
from trainer.recipe.digest import recipe_digest
from trainer.recipe.keys import PATH_KEYS
from trainer.recipe.schema import Recipe

_PACKAGES: Final = ("torch", "transformers", "tokenizers", "numpy")
_SOURCE_SUFFIXES: Final = frozenset({".py", ".cpp", ".hpp", ".toml"})


def record_of_run(
    recipe: Recipe,
    *,
    name: str,
    sources: Sequence[Mapping[str, Any]],
    data_fingerprint: str,
    steps: int,
    metrics: Mapping[str, float],
    device: torch.device,
    ranks: int = 1,
    origin: Origin | None = None,
    key: bytes | None = None,
    now: datetime | None = None,
) -> TrainingRecord:
    """Return the record of a run that ends now.

    Args:
        recipe: what was run; its `model.source` is the parent.
        name: of the recipe.
        sources: of each file of data: name, sha256, bytes and role ("train", "validation").
        data_fingerprint: of the training set.
        steps: updates made.
        metrics: figures of the validation data; what is not finite is left out.
        device: where it was computed.
        ranks: how many processes computed it.
        origin: of the network when it was loaded (`Network.origin`), which is the parent:
            the files may be others by now. None digests them as they are.
        key: of a private run (`trainer.checkpointing.keyed`); None writes plain digests.
        now: the time to record; the clock's by default.

    Raises:
        CheckpointError: the parent's weights cannot be read.
    """
    return TrainingRecord(
        name=name,
        created=(now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        recipe_digest=recipe_digest(recipe),
        recipe=_portable(all_values(recipe)),
        data_fingerprint=data_fingerprint if key is None else keyed(key, data_fingerprint),
        sources=tuple(_source(each, key) for each in sources),
        seeds={"run": recipe.run.seed},
        steps=steps,
        # A figure that JSON cannot hold exactly (a perplexity beyond all reason) says nothing.
        metrics={name: each for name, each in metrics.items() if abs(each) < MAX_SAFE_INTEGER},
        code=code_version(),
        environment=describe_environment(device, ranks),
        parent=_parent(recipe, origin),
        keyed=key is not None,
    )


def code_version() -> CodeVersion:
    """Return the release and the SHA-256 over the trainer's source files.

    The digest is over a line for each file in the order of names, "<sha256>  <name>\\n",
    as `sha256sum` writes them.
    """
    root = Path(trainer.__file__).parent
    files = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in _SOURCE_SUFFIXES and path.is_file()
    )
    lines = "".join(f"{sha256_file(root / name)}  {name}\n" for name in files)
    return CodeVersion(casemate.__version__, hashlib.sha256(lines.encode()).hexdigest())


def describe_environment(device: torch.device, ranks: int = 1) -> Environment:
    """Return what this machine is."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else range(0)
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu_name(),
        accelerators=tuple(torch.cuda.get_device_name(index) for index in gpus),
        packages={name: importlib.metadata.version(name) for name in _PACKAGES},
        ranks=ranks,
    )


def parent_of(folder: Path) -> Parent:
    """Return the digests of a checkpoint as it lies on disk now.

    Exactly the files are digested that a network would be loaded from: see
    `trainer.models.weights.Origin`, which has them as they were when it was.

    Raises:
        CheckpointError: the folder holds no weights, or they cannot be read.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no directory: it holds no weights")
    files, _ = weight_files(folder)
    record = folder / RECORD_NAME
    return Parent(digest_of(folder, files), sha256_regular(record) if record.exists() else None)


def _source(source: Mapping[str, Any], key: bytes | None) -> Source:
    name = PurePath(source["name"]).name
    if key is None:
        return Source(name, source["sha256"], source["bytes"], source["role"])
    return Source(name, keyed(key, source["sha256"]), 0, source["role"])


def _parent(recipe: Recipe, origin: Origin | None) -> Parent | None:
    if origin is not None:
        return Parent(origin.weights, origin.record)
    return parent_of(Path(recipe.model.source)) if recipe.model.source else None


def _portable(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Reduce paths to their last names: where data lay says something of the machine only."""
    return {
        section: {
            key: _last_names(value) if f"{section}.{key}" in PATH_KEYS else value
            for key, value in each.items()
        }
        for section, each in values.items()
    }


def _last_names(value: Any) -> Any:
    if isinstance(value, list):
        return [PurePath(each).name for each in value]
    return PurePath(value).name


def _cpu_name() -> str:
    """Return the processor's name; Python's own answer is empty on Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
