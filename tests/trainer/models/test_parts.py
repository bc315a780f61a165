from __future__ import annotations

import pytest
import torch

from tests.trainer.models.networks import KINDS, TIED, make, make_batch
from trainer.errors import RecipeError
from trainer.models.network import PARTS
from trainer.models.parts import add_task_layers, apply_parts, freeze, freeze_layers, replace
from trainer.recipe.schema import PartsOptions


def values(network, name):
    return [p.detach().clone() for p in network.part_parameters(name)]


def changed(before, after):
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def step(network, kind):
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    logits = network(make_batch(kind))
    (logits * torch.randn_like(logits)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PARTS)
def test_a_frozen_part_stays_and_the_others_move(kind, name):
    network = make(kind)
    if not network.part_parameters(name):
        with pytest.raises(RecipeError, match=r"shares its weights|has nothing in its"):
            freeze(network, name)
        return
    if len(network.part_parameters(name)) == len(list(network.parameters())):
        with pytest.raises(RecipeError, match="nothing to train"):
            apply_parts(network, PartsOptions(freeze=(name,)))
        return
    apply_parts(network, PartsOptions(freeze=(name,)))
    before = {each: values(network, each) for each in PARTS}
    step(network, kind)
    for each in PARTS:
        moved = changed(before[each], values(network, each))
        assert not any(moved) if each == name else all(moved)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PARTS)
def test_a_replaced_part_is_new_and_the_others_stay(kind, name):
    network = make(kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    before = {each: values(network, each) for each in PARTS}
    if network.part(name) is None:
        with pytest.raises(RecipeError):
            replace(network, name)
        return
    replace(network, name)
    for each in PARTS:
        if each == "output" and kind in TIED and name != "features":
            continue
        moved = changed(before[each], values(network, each)) if each != name else None
        if moved is None:
            fresh = values(network, each)
            assert fresh
            assert all(not torch.equal(a, b) for a, b in zip(before[each], fresh, strict=False))
        else:
            assert not any(moved)
    network(make_batch(kind))


@pytest.mark.parametrize("kind", TIED)
def test_a_replaced_output_layer_is_tied_no_more(kind, tmp_path):
    from trainer.models.load import load_network

    network = make(kind)
    table = network.part_parameters("features")[0].clone()
    replace(network, "output")
    assert not network.tied
    freeze(network, "features")
    assert network.output_weight.requires_grad
    assert torch.equal(network.part_parameters("features")[0], table)
    network.eval()
    network.save(tmp_path)
    again = load_network(tmp_path).eval()
    assert not again.tied
    assert torch.equal(again(make_batch(kind)), network(make_batch(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_added_layers_belong_to_the_task_and_learn(kind):
    network = make(kind)
    before = len(network.part_parameters("task"))
    hidden = network.eval().hidden(make_batch(kind))
    apply_parts(network, PartsOptions(add_task_layers=2, freeze=("features",)))
    assert len(network.part_parameters("task")) == before + 4
    after = network.hidden(make_batch(kind))
    assert after.shape == hidden.shape
    assert not torch.equal(after, hidden)
    # They start near the identity: what was learned is not thrown away.
    assert torch.nn.functional.cosine_similarity(after, hidden, dim=-1).min() > 0.95
    weights = values(network, "task")
    step(network.train(), kind)
    assert all(changed(weights, values(network, "task"))[-4:])


@pytest.mark.parametrize("kind", ["decoder", "encoder-classifier", "seq2seq", "lstm"])
def test_lowest_layers_are_frozen_with_the_embeddings(kind):
    network = make(kind)
    freeze_layers(network, 1)
    layers = network.blocks()
    assert not any(p.requires_grad for p in layers[0].parameters())
    assert all(p.requires_grad for p in layers[1].parameters())
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert any("embed" in name or "shared" in name for name in frozen)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    outside = [p for p in network.parameters() if id(p) not in inside]
    assert any(p.requires_grad for p in outside) == (
        kind != "lstm" or network.output_bias is not None
    )


def test_more_layers_than_there_are():
    with pytest.raises(RecipeError, match=r"freeze_layers is 3, and this decoder has 2"):
        freeze_layers(make("decoder"), 3)


def test_nothing_left_to_train():
    everything = PartsOptions(freeze=("features", "output"))
    with pytest.raises(RecipeError, match="nothing to train"):
        apply_parts(make("decoder-untied"), everything)


def test_no_change_without_options():
    network, same = make("encoder-tagger"), make("encoder-tagger")
    assert apply_parts(network, PartsOptions()) is network
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), same.state_dict().values(), strict=True)
    )


def test_added_layers_take_the_width_of_the_output_layer():
    network = make("convolution")
    add_task_layers(network, 1)
    assert [tuple(p.shape) for p in network.added.parameters()] == [(10, 10), (10,)]
