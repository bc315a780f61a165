"""Which class of transformers serves which family and task; no code from a directory.

Only architectures that the installed library knows are opened (`trust_remote_code` is
always off), and only from disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    logging,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from security.errors import CasemateError
from trainer.errors import CheckpointError, RecipeError
from trainer.models.configuration import make_config
from trainer.models.transformer import Arrangement, Task

# What the name of a stored class says about its task.
_TASKS: dict[str, Task] = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tagging",
    "ForMaskedLM": "language",
    "ForPreTraining": "language",
    "ForCausalLM": "language",
    "LMHeadModel": "language",
    "ForConditionalGeneration": "language",
    "MTModel": "language",
}


def stock_config(folder: Path, values: Mapping[str, Any]) -> PretrainedConfig:
    """Make the configuration of a Hugging Face directory from its config.json.

    Raises:
        CheckpointError: the architecture is unknown here, or the values are not its own.
        RecipeError: the weights are quantized.
    """
    with quiet():
        return make_config(values, folder)


def family_of(config: PretrainedConfig) -> str:
    """Return "decoder", "encoder" or "seq2seq".

    Raises:
        RecipeError: a text model of none of these kinds.
    """
    if config.is_encoder_decoder:
        return "seq2seq"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_decoder:
        return "encoder"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise RecipeError(
        f"a {config.model_type!r} network is no language model that can be trained here"
    )


def stored_task(config: PretrainedConfig) -> Task:
    """Return what the class that wrote a directory was for; a base model gives embeddings."""
    for name in config.architectures or ():
        for ending, task in _TASKS.items():
            if name.endswith(ending):
                return task
    return "embedding"


def class_for(family: str, arrangement: Arrangement) -> Any:
    """Return the automatic class that makes the core of a network."""
    if family == "seq2seq":
        return AutoModelForSeq2SeqLM
    if arrangement.task == "language":
        return AutoModelForCausalLM if family == "decoder" else AutoModelForMaskedLM
    if arrangement.task == "tagging":
        return AutoModelForTokenClassification
    if arrangement.pooling == "stock":
        return AutoModelForSequenceClassification
    return AutoModel


def positions(config: PretrainedConfig) -> int | None:
    """Return how many positions a network knows, or None where they are relative."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0 or config.model_type == "t5":
        return None
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return limit - int(config.pad_token_id) - 1
    return limit


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message: theirs run to paragraphs."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's advice on new output layers off the terminal for a while."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Turn whatever a library raises over the files of a directory into a refusal.

    Raises:
        CheckpointError: in place of any error that is not the trainer's own.
    """
    try:
        yield
    except (CasemateError, MemoryError):
        raise
    # A configuration is a stranger's, and what a library raises over it has no bound.
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be opened: its config.json and the installed transformers do not "
            f"fit ({type(error).__name__}: {first_line(error)[:200]}); get the directory again "
            "from where it came, or convert it with the version that wrote it"
        ) from error
