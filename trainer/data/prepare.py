"""A recipe's text becomes a tokenizer and shards, once; the next run finds them.

The folder of prepared text has one subfolder for each combination of files (by SHA-256),
tokenizer and options; a run whose combination is there uses it:

    <combination>/tokenizer/        the tokenizer's files
    <combination>/train/            a shard set
    <combination>/validation/       another, unless nothing is held out
    <combination>/vocabulary.json   how a newly trained vocabulary fits

It is built beside its place and renamed when whole, so it is never half there, and ranks
that prepare at the same time do not disturb each other (`kept_folder`). It refuses a corpus
that changes while it is read, a kept folder that another user may write, and kept shards
whose manifest names other sources than the recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.corpus import Corpus, find_corpora, write_shards
from trainer.data.files import describe_file
from trainer.data.kept_folder import building, put, require_own, sweep
from trainer.data.shards import ShardSet
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import SAMPLE_CHARACTERS, train_tokenizer
from trainer.data.vocabulary_report import measure_vocabulary
from trainer.errors import DataError
from trainer.recipe.schema import Recipe

# Goes up when the same input would give another tokenizer or other shards.
_VERSION = 1
_TOKENIZER_FOLDER = "tokenizer"
_REPORT_FILE = "vocabulary.json"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class PreparedText:
    """Text that is ready to be learned from.

    Attributes:
        train: tokens to learn from.
        validation: held-out tokens; None where nothing is held out.
        tokenizer: what made them.
        sources: what was read: name, sha256, bytes and role of each file.
        report: how the vocabulary fits; None for a tokenizer that was not trained here.
    """

    train: ShardSet
    validation: ShardSet | None
    tokenizer: Tokenizer
    sources: list[dict[str, Any]]
    report: dict[str, Any] | None


def prepare_text(
    recipe: Recipe, tokenizer: Tokenizer | None, folder: Path, progress: Progress
) -> PreparedText:
    """Return a recipe's tokens, made now or found from an earlier run.

    Args:
        recipe: what is wanted.
        tokenizer: to use; None reads or trains the one of the recipe.
        folder: where prepared text is kept if `data.cache` is empty.
        progress: told in a few words what is being done.

    Raises:
        DataError: the corpus or the kept shards cannot be used.
        RecipeError: the tokenizer's options do not fit one another.
    """
    progress("checking the corpus")
    corpora = [corpus for corpus in find_corpora(recipe.data) if corpus is not None]
    before = _state(corpora)
    sources = _sources(corpora)
    if tokenizer is None and recipe.tokenizer.kind == "file":
        tokenizer = Tokenizer.load(Path(recipe.tokenizer.file))
    base = Path(recipe.data.cache) if recipe.data.cache else folder
    place = base / _combination(recipe, tokenizer, corpora, sources)
    sweep(base)
    if not place.is_dir():
        with building(place) as partial:
            _build(partial, recipe, tokenizer, corpora, sources=sources, progress=progress)
            if _state(corpora) != before:
                raise DataError("the corpus changed while it was read; run again when it is still")
            put(partial, place)
    progress("checking the shards")
    require_own(place)
    return _open(place, corpora, sources)


def _sources(corpora: list[Corpus]) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = []
    for corpus in corpora:
        # A part held out of the training files is no source of its own.
        if corpus is corpora[0] or corpus.files != corpora[0].files:
            described += [dict(describe_file(file.path, corpus.role)) for file in corpus.files]
    return described


def _what(sources: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return what tells sources apart: their content and their part, not their names."""
    keys = ("sha256", "bytes", "role")
    return [tuple(one.get(key) for key in keys) if isinstance(one, dict) else () for one in sources]


def _state(corpora: list[Corpus]) -> list[tuple[int, int]]:
    """Return what changes with the files: size in bytes and time of modification in ns."""
    stats = [file.path.stat() for corpus in corpora for file in corpus.files]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _combination(
    recipe: Recipe,
    tokenizer: Tokenizer | None,
    corpora: list[Corpus],
    sources: list[dict[str, Any]],
) -> str:
    """Return a name that changes with whatever decides the tokenizer or the tokens."""
    data, made = recipe.data, recipe.tokenizer
    trained = (made.kind, made.vocabulary_size, made.lowercase, made.minimum_count)
    decides = {
        "version": _VERSION,
        "sources": [(source["sha256"], source["role"]) for source in sources],
        "formats": [[file.format for file in corpus.files] for corpus in corpora],
        "parts": [(corpus.role, corpus.part.fraction) for corpus in corpora],
        "fields": (data.text_field, data.columns),
        "shard_tokens": data.shard_tokens,
        "tokenizer": tokenizer.digest if tokenizer else (recipe.model.family, *trained),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def _build(
    folder: Path,
    recipe: Recipe,
    tokenizer: Tokenizer | None,
    corpora: list[Corpus],
    *,
    sources: list[dict[str, Any]],
    progress: Progress,
) -> None:
    if tokenizer is None:
        progress("training the tokenizer")
        trained = train_tokenizer(recipe.tokenizer, corpora[0], recipe.model.family)
        tokenizer, report = trained.tokenizer, trained.report
        if len(corpora) > 1 and (sample := corpora[1].sample(SAMPLE_CHARACTERS)):
            # Unknown words show in text that the vocabulary was not made from.
            report = measure_vocabulary(
                tokenizer, sample, wanted=report.wanted, measured_on="validation"
            )
        content = json.dumps(report.to_dict(), indent=2) + "\n"
        (folder / _REPORT_FILE).write_text(content, encoding="utf-8")
    (folder / _TOKENIZER_FOLDER).mkdir()
    tokenizer.save(folder / _TOKENIZER_FOLDER)
    for corpus in corpora:
        progress(f"tokenizing the {corpus.role} corpus")
        write_shards(corpus, tokenizer, folder / corpus.role, sources)


def _open(place: Path, corpora: list[Corpus], sources: list[dict[str, Any]]) -> PreparedText:
    tokenizer = Tokenizer.load(place / _TOKENIZER_FOLDER)
    sets = [ShardSet.open(place / corpus.role) for corpus in corpora]
    for shards in sets:
        if shards.tokenizer_digest != tokenizer.digest:
            raise DataError(
                f"{place}: the shards were made with another tokenizer than the one beside "
                "them; delete this folder and run again: it is made anew from the corpus"
            )
        if _what(shards.sources) != _what(sources):
            raise DataError(
                f"{place}: the shards were made from other files than the recipe names; delete "
                "this folder and run again: it is made anew from the corpus"
            )
    report = place / _REPORT_FILE
    return PreparedText(
        train=sets[0],
        validation=sets[1] if len(sets) > 1 else None,
        tokenizer=tokenizer,
        sources=sources,
        report=json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None,
    )
