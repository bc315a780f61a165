"""Errors of the trainer.

    CasemateError
    ├── UsageError
    │   ├── RecipeError          a recipe is wrong or cannot be run here
    │   │   └── MemoryEstimateError   it would not fit the memory of this machine
    │   └── DataError            a corpus or a data set cannot be used; names file and line
    └── TrainingError            a run could not go on
        ├── DivergenceError      the loss is no number; names the step and the batch
        ├── CheckpointError      a checkpoint is damaged, foreign or could not be written
        └── RankError            a rank died or stopped answering; names it

Each message says what was found, where, and what to do next. None holds the text
of a training example: the data may be sensitive, and messages end up in logs.
"""

from __future__ import annotations

from security.errors import CasemateError, UsageError


class RecipeError(UsageError):
    """A recipe is wrong, or asks for something that cannot be run here."""


class MemoryEstimateError(RecipeError):
    """A recipe would need more memory than there is; the message holds both figures."""


class DataError(UsageError):
    """A corpus or a data set cannot be used; the message names the file and the line."""


class TrainingError(CasemateError):
    """A run could not go on; the message says what is kept and how to continue."""


class DivergenceError(TrainingError):
    """The loss or the gradient is no number; the message names the step and the batch."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged, belongs to another recipe, or could not be written."""


class RankError(TrainingError):
    """A rank died or stopped answering; the message names it."""
