from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainer.models.networks import VOCABULARY, make, make_batch
from tests.trainer.objectives.tiny import Tiny
from tests.trainer.privacy.naive import (
    PRIVATE_KINDS,
    labelled_batch,
    make_step,
    objective_step,
    row,
)
from trainer.loop.step import Step
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.language import TokenPrediction
from trainer.privacy.clipping import Clipping
from trainer.privacy.errors import PrivacyError
from trainer.privacy.gradients import PerExampleGradients

CLIPPING = Clipping("flat", 1.0)


def check(step, batch):
    PerExampleGradients(step, step.network, CLIPPING).check(batch)


@pytest.mark.parametrize("kind", PRIVATE_KINDS)
def test_good_networks_pass_with_dropout(kind):
    step = make_step(kind, dropout=0.2)
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in step.state_dict().items()}
    check(step, labelled_batch(kind))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in step.parameters())


def test_batch_statistics():
    class Normalized(Tiny):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            # Nothing to train, so that only what it does to others can show it.
            self.batch = nn.BatchNorm1d(8, affine=False)

        def represent(self, batch):
            return self.batch(super().represent(batch).mT).mT

    step = objective_step("decoder", Normalized(VOCABULARY, 8, nn.Linear(8, VOCABULARY)))
    with pytest.raises(PrivacyError, match="batch statistics or in-batch negatives"):
        check(step, labelled_batch("decoder"))


def test_negatives_in_the_batch():
    network = make("encoder-embedding").train()
    step = Step(network, Contrastive(temperature=0.05, label_smoothing=0.0))
    batch = make_batch("encoder-embedding")
    batch |= {f"pair_{name}": values.roll(1, 1) for name, values in batch.items()}
    with pytest.raises(PrivacyError, match="batch statistics or in-batch negatives"):
        check(step, batch)


def test_a_weight_that_is_used_beside_its_layer():
    network = Tiny(VOCABULARY, 8, nn.Linear(8, 1100))
    network.vocabulary_size = 1100
    step = Step(network, TokenPrediction(label_smoothing=0.0, chunk_tokens=16, sparse=False))
    with pytest.raises(PrivacyError, match=r"head\.weight is used beside its layer.*softmax"):
        check(step, labelled_batch("decoder"))


def test_one_example_shows_nothing():
    step = make_step("lstm")
    with pytest.raises(PrivacyError, match="needs two of them"):
        check(step, row(labelled_batch("lstm"), 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_examples_without_a_gradient_are_refused_for_what_they_are(value):
    """A weight that is no number: not a weight that is used beside its layer."""
    step = make_step("decoder-untied")
    with torch.no_grad():
        next(step.network.parameters())[:] = value
    with pytest.raises(PrivacyError, match="is no number for the first records"):
        check(step, labelled_batch("decoder-untied"))
