from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from tests.trainer.models.networks import (
    CONTEXT,
    KINDS,
    VOCABULARY,
    make,
    make_batch,
)
from tests.trainer.models.test_saving import STOCK
from trainer.errors import CheckpointError, RecipeError
from trainer.models.adapters import LoraLinear, adapt
from trainer.models.decoder import Decoder
from trainer.models.load import load_network
from trainer.models.parts import apply_parts
from trainer.models.transformer import Arrangement
from trainer.recipe.schema import PartsOptions

LORA = PartsOptions(adapter="lora", lora_rank=3, lora_alpha=6.0)
BITFIT = PartsOptions(adapter="bitfit")
TRANSFORMERS = tuple(
    k for k, (family, *_) in KINDS.items() if family in ("decoder", "encoder", "seq2seq")
)
WITH_BIASES = tuple(k for k, (family, *_) in KINDS.items() if family not in ("decoder", "seq2seq"))


def trained(network):
    return {name for name, p in network.named_parameters() if p.requires_grad}


def perturb(network):
    """Move what is trained, as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def attentions_in(network):
    kinds = ("Attention", "BertSdpaSelfAttention", "BertSelfAttention")
    return sum(
        type(m).__name__.endswith(kinds) and any(isinstance(c, nn.Linear) for c in m.children())
        for m in network.modules()
    )


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2)
    return Decoder(GPT2LMHeadModel(config), Arrangement("language", "none"), context=CONTEXT)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_lora_changes_nothing_at_first_and_trains_little(kind):
    network = make(kind).eval()
    expected = network(make_batch(kind))
    assert apply_parts(network, LORA) is network
    assert torch.equal(network(make_batch(kind)), expected)
    names = trained(network)
    adapters = {name for name in names if "lora_" in name}
    adapted = [name for name, m in network.named_modules() if isinstance(m, LoraLinear)]
    assert len(adapted) == 2 * attentions_in(network)
    assert len(adapters) == 2 * len(adapted)
    head = {"head.weight", "head.bias"} & dict(network.named_parameters()).keys()
    assert names - adapters == (head if network.labels else set())


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_all_of_an_adapter_learns_and_nothing_else_moves(kind):
    network = make(kind)
    apply_parts(network, LORA)
    perturb(network)
    names = trained(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    found = network(make_batch(kind))
    (found * torch.randn_like(found)).sum().backward()
    optimizer.step()
    after = network.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == names


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_saved_network_has_its_adapters_merged(kind, tmp_path):
    network = make(kind)
    names = network.state_dict().keys()
    apply_parts(network, LORA)
    perturb(network)
    network.eval()
    network.save(tmp_path / ".", network.state_dict())
    again = load_network(tmp_path).eval()
    assert again.state_dict().keys() == names
    batch = make_batch(kind)
    assert torch.allclose(again(batch), network(batch), rtol=1e-4, atol=1e-5)
    if kind in STOCK:
        stock, report = STOCK[kind].from_pretrained(
            tmp_path, local_files_only=True, output_loading_info=True
        )
        assert not any(report.values())
        logits = stock.eval()(**batch).logits
        assert torch.allclose(logits, network(batch), rtol=1e-4, atol=1e-5)


def test_gpt2_is_adapted_and_merged(tmp_path):
    network = gpt2().eval()
    batch = make_batch("decoder")
    expected = network(batch)
    apply_parts(network, LORA)
    assert torch.equal(network(batch), expected)
    assert len(trained(network)) == 4
    perturb(network)
    network.save(tmp_path)
    changed = network(batch)
    assert not torch.allclose(changed, expected, atol=1e-2)
    stock = GPT2LMHeadModel.from_pretrained(tmp_path, local_files_only=True).eval()
    assert torch.allclose(stock(**batch).logits, changed, rtol=1e-4, atol=1e-5)


def test_merging_through_wrapped_layers(tmp_path):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    network = make("encoder-classifier").eval()
    apply_parts(network, LORA)
    perturb(network)
    expected = network(make_batch("encoder-classifier"))
    blocks = {id(block) for block in network.blocks()}
    apply_activation_checkpointing(network, check_fn=lambda each: id(each) in blocks)
    network.save(tmp_path)
    again = load_network(tmp_path).eval()
    assert torch.allclose(again(make_batch("encoder-classifier")), expected, atol=1e-5)


def test_a_state_without_the_adapters_is_refused(tmp_path):
    network = make("decoder")
    plain = dict(network.state_dict())
    apply_parts(network, LORA)
    with pytest.raises(CheckpointError, match=r"missing .*lora_down"):
        network.save(tmp_path, plain)


def test_the_state_of_a_run_goes_into_a_network_with_adapters():
    network, other = make("decoder"), make("decoder", seed=2)
    for each in (network, other):
        apply_parts(each, LORA)
    perturb(network)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(make_batch("decoder")), network(make_batch("decoder")))


@pytest.mark.parametrize("kind", WITH_BIASES)
def test_bitfit_trains_biases_and_the_output_layer_of_labels(kind):
    network = make(kind)
    apply_parts(network, BITFIT)
    names = trained(network)
    biases = {n for n, _ in network.named_parameters() if n.rpartition(".")[2].startswith("bias")}
    assert biases <= names
    assert names - biases == ({"head.weight"} if network.labels else set())


@pytest.mark.parametrize("kind", ["decoder", "decoder-classifier", "seq2seq"])
def test_bitfit_without_biases(kind):
    with pytest.raises(RecipeError, match="no biases; use 'lora'"):
        apply_parts(make(kind), BITFIT)


@pytest.mark.parametrize("kind", ["lstm", "convolution"])
def test_lora_without_attention(kind):
    with pytest.raises(RecipeError, match="no query and value matrices"):
        apply_parts(make(kind), LORA)


@pytest.mark.parametrize("adapter", ["lora", "bitfit"])
def test_what_is_new_is_trained_too(adapter):
    network = make("encoder-masked")
    options = PartsOptions(
        adapter=adapter, lora_rank=2, replace=("task", "output"), add_task_layers=1
    )
    apply_parts(network, options)
    names = trained(network)
    assert {"head.weight", "head.bias", "added.0.dense.weight"} <= names
    assert "core.cls.predictions.transform.dense.weight" in names
    assert not any("embeddings" in name and "bias" not in name for name in names)


def test_lowest_layers_may_be_left_without():
    network = make("encoder-classifier")
    apply_parts(network, PartsOptions(adapter="lora", lora_rank=2, freeze_layers=1))
    layers = {name.split(".")[4] for name in trained(network) if "lora_" in name}
    assert layers == {"1"}


def test_frozen_features_would_freeze_the_adapter():
    with pytest.raises(RecipeError, match=r"leave 'features' out of parts\.freeze"):
        apply_parts(make("decoder"), PartsOptions(adapter="lora", freeze=("features",)))


def test_a_rank_that_saves_nothing():
    with pytest.raises(RecipeError, match=r"lora_rank is 17, .* 16 rows"):
        apply_parts(make("decoder"), PartsOptions(adapter="lora", lora_rank=17))


def test_a_layer_that_computes_something_else():
    class Quantized(nn.Linear):
        pass

    with pytest.raises(RecipeError, match="does not fit a Quantized"):
        adapt(Quantized(4, 4), 2, 1.0)
    layer = nn.Linear(4, 4)
    adapt(layer, 2, 1.0)
    with pytest.raises(RecipeError, match="does not fit a LoraLinear"):
        adapt(layer, 2, 1.0)


def test_no_memory_on_the_meta_device():
    with torch.device("meta"):
        network = make("encoder-classifier")
        apply_parts(network, LORA)
    assert all(p.is_meta for p in network.parameters())
    size = network.size()
    assert size.trainable == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert size.trainable < size.parameters / 4


def test_an_adapted_conv1d_computes_what_it_says():
    torch.manual_seed(0)
    layer = Conv1D(6, 4)
    adapt(layer, 2, 3.0)
    nn.init.normal_(layer.lora_up.weight)
    inputs = torch.randn(2, 5, 4)
    product = (layer.lora_up.weight @ layer.lora_down.weight).T * 1.5
    expected = inputs @ (layer.weight + product) + layer.bias
    assert torch.allclose(layer(inputs), expected, atol=1e-5)
