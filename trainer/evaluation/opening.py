"""Opens a checkpoint for measuring: network, tokenizer, and the recipe that made it.

Nothing is added or replaced: a directory without the output layer that a measurement
needs is refused, because figures of new weights would mean nothing. The recipe comes
from training.json; a Hugging Face directory has none, and its network says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpointing.record import RECORD_NAME, read_record
from trainer.data.tokenization import Tokenizer
from trainer.errors import CheckpointError, RecipeError
from trainer.models.load import load_network
from trainer.models.network import Network
from trainer.recipe.parse import recipe_of
from trainer.recipe.schema import Recipe


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint in memory.

    Attributes:
        folder: where it lies.
        network: on `device`, in evaluation mode.
        tokenizer: its own.
        recipe: what made it; None for a directory without training.json.
        device: where it computes.
    """

    folder: Path
    network: Network
    tokenizer: Tokenizer
    recipe: Recipe | None
    device: torch.device


def open_checkpoint(folder: Path, device: str = "auto") -> OpenCheckpoint:
    """Read a checkpoint directory.

    Args:
        folder: with config.json, model.safetensors and tokenizer.json.
        device: "auto", "cpu" or "cuda".

    Raises:
        CheckpointError: it cannot be read.
        RecipeError: there is no GPU and one is asked for, or the directory holds
            something that is no language network.
        DataError: there is no tokenizer in it.
    """
    chosen = choose_device(device)
    recipe = read_recipe(folder)
    network = load_network(folder)
    network.to(chosen)
    network.eval()
    return OpenCheckpoint(folder, network, Tokenizer.load(folder), recipe, chosen)


def choose_device(wanted: str) -> torch.device:
    """Return the device for a word; "auto" takes a GPU if there is one.

    Raises:
        RecipeError: a GPU is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no GPU here that torch can use; take --device cpu")
    use_gpu = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def read_recipe(folder: Path) -> Recipe | None:
    """Return the recipe in a checkpoint's training.json; None if there is no such file.

    Raises:
        CheckpointError: the file is there and holds no recipe.
    """
    path = folder / RECORD_NAME
    if not path.exists():
        return None
    values = read_record(folder).recipe
    try:
        return recipe_of(values, where=str(path), folder=folder)
    except RecipeError as problem:
        raise CheckpointError(
            f"{path} holds a recipe that this version does not read: {problem}"
        ) from problem


def kind_of(network: Network) -> str:
    """Return what a network was trained for, as an objective's name.

    An encoder-decoder may have learned infilling or pairs; pairs are taken.
    """
    if network.labels:
        return "classification" if network.level == "text" else "tagging"
    if network.output is None:
        return "contrastive"
    return {"encoder": "masked", "seq2seq": "sequence-to-sequence"}.get(
        network.family, "next-token"
    )


def require_fit(checkpoint: OpenCheckpoint, kind: str) -> None:
    """Check that a network can be measured by an objective.

    Raises:
        RecipeError: it cannot.
    """
    own = kind_of(checkpoint.network)
    pairs = ("sequence-to-sequence", "infilling")
    if kind == own or (kind in pairs and own in pairs):
        return
    raise RecipeError(
        f"{checkpoint.folder} was made for {own!r} and cannot be measured by {kind!r}; "
        "finetune it for that first"
    )
