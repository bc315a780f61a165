"""The data of a private run, read as the run will read it: for `casemate privacy plan`.

The plan of a run rests on the number of its records or users, and a run counts what it can
use: a record of too few tokens is none, an example with an unknown label is refused. So the
data goes through the very code that a run reads it with. Nothing is written, and nothing of
the data is kept or shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.recipe.parse import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Counted:
    """What a run will protect.

    Attributes:
        units: records or users, without canaries.
        warnings: what the data shows that people must know.
    """

    units: int
    warnings: tuple[str, ...]


def count_units(loaded: LoadedRecipe, progress: Callable[[str], None]) -> Counted:
    """Read and tokenize the training and validation data of a recipe, and count it.

    Args:
        loaded: checked (`trainer.privacy.checks.check_recipe`), so that its tokenizer and
            labels do not come from the data.
        progress: is told what is being done.

    Raises:
        DataError: there is no data, it cannot be read, or a label is none of data.labels.
        RecipeError: sections do not fit the data.
        PrivacyError: the start was trained on the same data, and that is not counted.
    """
    from trainer.data.assemble import build_data
    from trainer.data.tokenization import Tokenizer
    from trainer.privacy.checks import data_warnings
    from trainer.privacy.start import refuse_known_start

    recipe, options = loaded.recipe, loaded.recipe.privacy
    source = recipe.model.source
    base = Tokenizer.load(Path(source)) if source else None
    with tempfile.TemporaryDirectory(prefix="casemate-plan-") as folder:
        data = build_data(recipe, Path(folder), base, _without_warnings(progress))
    unsure = refuse_known_start(
        source,
        data.sources,
        ledger=Path(options.ledger) if options.ledger else None,
        dataset=options.dataset or loaded.name,
    )
    told = (data.report or {}).get("warnings", [])
    units = len(data.train) if data.groups is None else len(data.groups)
    return Counted(units, (*told, *unsure, *data_warnings(recipe, data)))


def _without_warnings(progress: Callable[[str], None]) -> Callable[[str], None]:
    """Return what tells of progress alone; warnings come with the plan."""

    def tell(text: str) -> None:
        if not text.startswith("warning: "):
            progress(text)

    return tell
