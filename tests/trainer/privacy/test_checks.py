"""Each thing that a private run may not be is refused by its name, with what helps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl
from tests.trainer.models.networks import KINDS, SPECIAL, TIED, model_options
from trainer.data.assemble import DataBundle, build_data
from trainer.data.shard_writer import ShardWriter
from trainer.data.shards import ShardSet
from trainer.data.text_dataset import WindowedText
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.models.parts import apply_parts
from trainer.privacy.checks import check_private, check_recipe
from trainer.privacy.errors import PrivacyError
from trainer.recipe.parse import parse_recipe
from trainer.recipe.schema import ObjectiveOptions, PartsOptions, Recipe

LABELLED = (
    "model.family=encoder",
    "model.source=/models/public",
    "objective.kind=classification",
    "data.labels=a,b",
    "data.validation=/data/public.jsonl",
    "batch.sequences=256",
)
TEXT = (
    "model.family=decoder",
    "tokenizer.kind=file",
    "tokenizer.file=/models/tokenizer.json",
    "objective.softmax=full",
    "batch.sequences=256",
)


def recipe(words: tuple[str, ...], *more: str) -> Recipe:
    overrides = ("privacy.enabled=true", *words, *more)
    return parse_recipe("", where="test", folder=Path("/"), overrides=overrides)


@pytest.mark.parametrize("words", [LABELLED, TEXT], ids=["labelled", "text"])
def test_a_sound_recipe_is_warned_of_what_lies_outside(words: tuple[str, ...]) -> None:
    warnings = check_recipe(recipe(words, "checkpoint.keep_best=true", "evaluation.patience=3"))
    assert all("switch it off" in warning for warning in warnings if "validation" in warning)
    assert any("keep_best" in warning and "patience" in warning for warning in warnings)


def test_small_batches_and_weight_decay_are_warned_of() -> None:
    found = " ".join(check_recipe(recipe(LABELLED, "batch.sequences=8")))
    assert "batch.sequences is 8" in found
    assert "weight_decay" in found
    good = recipe(LABELLED, "batch.sequences=1000", "optimizer.weight_decay=0")
    assert "batch.sequences" not in " ".join(check_recipe(good))


@pytest.mark.parametrize(
    ("words", "more", "named"),
    [
        (LABELLED, ("objective.kind=contrastive", "data.pair_field=b"), "in-batch negatives"),
        (TEXT, ("model.family=word-embeddings", "objective.kind=negative-sampling"), "embeddings"),
        (TEXT, ("objective.softmax=chunked",), "objective.softmax 'chunked'"),
        (
            TEXT,
            ("model.family=recurrent", "objective.softmax=adaptive"),
            "objective.softmax 'adaptive'",
        ),
        (TEXT, ("tokenizer.kind=bpe",), "vocabulary from the private data"),
        (LABELLED, ("data.labels=",), "data.labels"),
        (LABELLED, ("data.validation=",), "by their rank"),
        (LABELLED, ("privacy.unit=user",), "privacy.user_field"),
        (LABELLED, ("privacy.contributions=3",), "privacy.contributions"),
        (LABELLED, ("precision.compile=true",), "precision.compile"),
    ],
    ids=[
        "in-batch-negatives",
        "word-embeddings",
        "fused-loss",
        "adaptive-softmax",
        "vocabulary-from-the-data",
        "labels-from-the-data",
        "hold-out-by-rank",
        "users-without-a-field",
        "contributions-of-a-record",
        "compiled",
    ],
)
def test_a_recipe_that_cannot_be_accounted_for(
    words: tuple[str, ...], more: tuple[str, ...], named: str
) -> None:
    with pytest.raises(PrivacyError, match=named):
        check_recipe(recipe(words, *more))


def network(kind: str, **values: Any) -> Network:
    _, objective, _, more = KINDS[kind]
    labelled = objective in ("classification", "tagging")
    return build_network(
        model_options(kind, **values),
        ObjectiveOptions(kind=objective, **more),
        vocabulary_size=61,
        context=16,
        special=SPECIAL,
        labels=("a", "b") if labelled else (),
    )


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Recipe, DataBundle]:
    rows = [{"text": f"{TEXTS[n % 4]} {n % 5}", "label": "ab"[n % 2]} for n in range(12)]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    wanted = recipe(
        LABELLED, f"data.train={path}", "data.validation=", "data.validation_fraction=0"
    )
    return wanted, build_data(wanted, tmp_path, tokenizer())


def test_a_sound_run_passes(labelled: tuple[Recipe, DataBundle]) -> None:
    wanted, data = labelled
    assert check_private(wanted, network("encoder-classifier"), data) == []


@pytest.mark.parametrize("kind", TIED)
def test_tied_weights_are_refused_unless_frozen(
    kind: str, labelled: tuple[Recipe, DataBundle]
) -> None:
    wanted, data = labelled
    tied = network(kind)
    with pytest.raises(PrivacyError, match=r"one matrix \(a tie\).*Untie"):
        check_private(wanted, tied, data)
    for parameter in tied.features.parameters():
        parameter.requires_grad_(False)
    if any(parameter.requires_grad for parameter in tied.parameters()):
        check_private(wanted, tied, data)


def test_untying_as_the_message_says_helps(labelled: tuple[Recipe, DataBundle]) -> None:
    wanted, data = labelled
    untied = apply_parts(network("decoder"), PartsOptions(replace=("output",)))
    check_private(wanted, untied, data)
    adapted = apply_parts(network("decoder"), PartsOptions(adapter="lora"))
    check_private(wanted, adapted, data)
    check_private(wanted, network("decoder", tie_embeddings=False), data)


def test_a_network_of_which_nothing_is_trained_is_refused(
    labelled: tuple[Recipe, DataBundle],
) -> None:
    wanted, data = labelled
    frozen = network("encoder-classifier")
    frozen.requires_grad_(False)
    with pytest.raises(PrivacyError, match="no weight is trained"):
        check_private(wanted, frozen, data)


class SparseMoeBlock(nn.Module):
    """Named as transformers names them."""


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.BatchNorm1d(4), "batch statistics"),
        (nn.SyncBatchNorm(4), "batch statistics"),
        (SparseMoeBlock(), "experts"),
    ],
    ids=["batch-norm", "sync-batch-norm", "experts"],
)
def test_layers_that_mix_records_are_refused(
    layer: nn.Module, named: str, labelled: tuple[Recipe, DataBundle]
) -> None:
    wanted, data = labelled
    mixing = network("encoder-classifier")
    mixing.added.append(layer)
    with pytest.raises(PrivacyError, match=named):
        check_private(wanted, mixing, data)


def test_an_adaptive_softmax_is_refused(labelled: tuple[Recipe, DataBundle]) -> None:
    wanted, data = labelled
    adaptive = network("lstm-adaptive", tie_embeddings=False)
    with pytest.raises(PrivacyError, match="adaptive softmax"):
        check_private(wanted, adaptive, data)


def test_packed_sequences_are_refused(labelled: tuple[Recipe, DataBundle], tmp_path: Path) -> None:
    wanted, data = labelled
    folder = tmp_path / "shards"
    with ShardWriter(
        folder, vocabulary_size=61, tokenizer_digest="0" * 64, shard_tokens=1024
    ) as writer:
        writer.begin_document()
        writer.append(np.arange(5, 55), 50)
        writer.finish([])
    windows = WindowedText(
        ShardSet.open(folder), sequence_length=8, boundaries=False, seed=1, end=None
    )
    with pytest.raises(PrivacyError, match="packed"):
        check_private(
            wanted, network("encoder-classifier"), dataclasses.replace(data, train=windows)
        )


def test_labels_that_the_recipe_does_not_name_are_refused(
    labelled: tuple[Recipe, DataBundle],
) -> None:
    wanted, data = labelled
    with pytest.raises(PrivacyError, match="labels"):
        check_private(
            wanted, network("encoder-classifier"), dataclasses.replace(data, labels=("b", "a"))
        )


def test_copies_are_warned_of(labelled: tuple[Recipe, DataBundle]) -> None:
    wanted, data = labelled
    copies = dataclasses.replace(data, report={"train": {"repeated": 3}})
    found = check_private(wanted, network("encoder-classifier"), copies)
    assert len(found) == 1
    assert "3 training texts are copies" in found[0]


def test_records_beyond_the_bound_of_a_user_are_told(
    labelled: tuple[Recipe, DataBundle],
) -> None:
    wanted, data = labelled
    groups = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    found = check_private(
        wanted, network("encoder-classifier"), dataclasses.replace(data, groups=groups)
    )
    assert "7 records are not used" in found[0]


def test_messages_hold_no_text_of_a_record(labelled: tuple[Recipe, DataBundle]) -> None:
    wanted, data = labelled
    mixing = network("encoder-classifier")
    mixing.added.append(nn.BatchNorm1d(4))
    with pytest.raises(PrivacyError) as refused:
        check_private(wanted, mixing, data)
    assert not any(word in str(refused.value) for word in ("film", "acting", "lazy"))
