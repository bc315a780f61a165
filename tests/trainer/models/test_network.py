from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.models.networks import (
    CONTEXT,
    KINDS,
    LABELS,
    LANGUAGE,
    TIED,
    VOCABULARY,
    make,
    make_batch,
)
from trainer.errors import RecipeError
from trainer.models.network import PARTS
from trainer.objectives.adaptive import AdaptiveOutput

EMBEDDINGS = ("encoder-embedding", "encoder-first-embedding")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_disjoint_and_cover_all(kind):
    network = make(kind)
    parts = [network.part_parameters(name) for name in PARTS]
    ids = [id(p) for part in parts for p in part]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in network.parameters()}
    assert network.features is not None
    assert parts[0]
    assert (network.output is None) == (kind in EMBEDDINGS)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_gradients(kind):
    network = make(kind)
    batch = make_batch(kind)
    hidden, logits = network.hidden(batch), network(batch)
    rows = 3 if network.level == "text" else (3, 7 if network.family == "seq2seq" else 10)
    lead = (rows,) if isinstance(rows, int) else rows
    assert hidden.shape[:-1] == lead
    if network.labels:
        assert network.labels == LABELS
        assert logits.shape == (*lead, len(LABELS))
    elif kind not in EMBEDDINGS:
        assert logits.shape == (*lead, VOCABULARY)
    (logits * torch.randn_like(logits)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in EMBEDDINGS])
def test_logits_are_the_output_layer_of_hidden(kind):
    network = make(kind).eval()
    batch = make_batch(kind)
    if isinstance(network.output, AdaptiveOutput):
        with pytest.raises(RecipeError, match="not one matrix"):
            _ = network.output_weight
        total = network(batch).exp().sum(-1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
        return
    by_hand = torch.nn.functional.linear(
        network.hidden(batch), network.output_weight, network.output_bias
    )
    assert torch.equal(by_hand, network(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_are_one_matrix(kind):
    network = make(kind)
    assert network.tied == (kind in TIED)
    weights = [p for p in network.parameters() if p.shape[0] == VOCABULARY and p.ndim == 2]
    if kind in TIED:
        assert len(weights) == 1
        bias = network.output_bias
        assert network.part_parameters("output") == ([] if bias is None else [bias])


@pytest.mark.parametrize("kind", LANGUAGE)
def test_generate(kind):
    network = make(kind).train()
    prompt = torch.tensor([[7, 8, 9]])
    first = network.generate(prompt, 6, 1.0, torch.Generator().manual_seed(3))
    again = network.generate(prompt, 6, 1.0, torch.Generator().manual_seed(3))
    assert first.shape == (1, 6)
    assert torch.equal(first, again)
    assert network.training
    assert int(first.max()) < VOCABULARY


@pytest.mark.parametrize("kind", LANGUAGE)
def test_greedy_generation_is_what_the_logits_say(kind):
    network = make(kind).eval()
    source = torch.tensor([[7, 8, 9]])
    text = source
    if network.family == "seq2seq":
        text = torch.tensor([[0]])
    for _ in range(5):
        batch = {"input_ids": text}
        if network.family == "seq2seq":
            batch = {"input_ids": source, "decoder_input_ids": text}
        text = torch.cat([text, network(batch)[:, -1].argmax(-1, keepdim=True)], dim=1)
    expected = text[:, -5:]
    assert torch.equal(network.generate(source, 5, 0.0), expected)
    stop = int(expected[0, 2])
    assert torch.equal(
        network.generate(source, 5, 0.0, stop=stop), expected[:, : _first(expected, stop)]
    )


def _first(tokens, wanted):
    return tokens[0].tolist().index(wanted)


def test_generation_beyond_the_context_goes_on():
    network = make("decoder")
    assert network.generate(torch.tensor([[7] * 20]), CONTEXT, 0.0).shape == (1, CONTEXT)


def test_a_negative_temperature_is_refused():
    with pytest.raises(RecipeError, match="temperature"):
        make("lstm").generate(torch.tensor([[7]]), 1, -1.0)


@pytest.mark.parametrize("kind", ["encoder-masked", "lstm-classifier", "decoder-classifier"])
def test_what_is_no_language_model_does_not_generate(kind):
    with pytest.raises(RecipeError, match="cannot generate"):
        make(kind).generate(torch.tensor([[7]]), 1)


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_an_embedding_has_no_output_layer(kind):
    network = make(kind)
    with pytest.raises(RecipeError, match="no layer"):
        _ = network.output_weight
    with pytest.raises(RecipeError, match="no output layer"):
        network.logits(torch.zeros(1, 16))
    with pytest.raises(RecipeError, match="no output layer"):
        network.replace_head()


def test_unknown_part():
    with pytest.raises(RecipeError, match="parts are features, task, output"):
        make("lstm").part("head")
    with pytest.raises(RecipeError, match="no part"):
        make("lstm").part_parameters("head")


@pytest.mark.parametrize(
    "kind", [k for k, v in KINDS.items() if v[1] in ("classification", "contrastive")]
)
@settings(max_examples=5, deadline=None)
@given(padding=st.integers(1, 6))
def test_padding_does_not_change_a_text(kind, padding):
    network = make(kind).eval()
    batch = make_batch(kind)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    padded = {
        "input_ids": torch.nn.functional.pad(ids, (0, padding)),
        "attention_mask": torch.nn.functional.pad(mask, (0, padding)),
    }
    assert torch.allclose(network(batch), network(padded), atol=1e-6)
    if kind not in EMBEDDINGS and network.family != "encoder":
        # Without a mask the padding token says where a text ends.
        unmasked = {"input_ids": padded["input_ids"]}
        assert torch.allclose(network(batch), network(unmasked), atol=1e-6)


def test_padding_on_the_left_does_not_change_a_decoders_text():
    network = make("decoder-classifier").eval()
    batch = make_batch("decoder-classifier")
    positions = torch.arange(10).expand(3, 10)
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (4, 0)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (4, 0)),
        "position_ids": torch.nn.functional.pad(positions, (4, 0)),
    }
    assert torch.allclose(network(batch), network(padded), atol=1e-6)


@pytest.mark.parametrize("kind", ["decoder", "encoder-masked"])
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 9), max_size=3))
def test_a_packed_document_is_as_if_alone(kind, cuts):
    network = make(kind).eval()
    ids = make_batch(kind, rows=1)["input_ids"]
    bounds = [0, *sorted(set(cuts)), 10]
    documents, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    for number, (low, high) in enumerate(pairwise(bounds)):
        documents[:, low:high] = number
        positions[:, low:high] = torch.arange(high - low)
    packed = network.hidden(
        {"input_ids": ids, "document_ids": documents, "position_ids": positions}
    )
    for low, high in pairwise(bounds):
        alone = network.hidden({"input_ids": ids[:, low:high]})
        assert torch.allclose(packed[:, low:high], alone, atol=1e-5)


def test_packed_masks_leave_padding_out():
    network = make("encoder-masked").eval()
    ids = make_batch("encoder-masked", rows=1)["input_ids"]
    padded = torch.nn.functional.pad(ids, (0, 3))
    batch = {
        "input_ids": padded,
        "attention_mask": (padded != 0).long(),
        "document_ids": torch.zeros_like(padded),
        "position_ids": torch.arange(13)[None],
    }
    assert torch.allclose(
        network.hidden(batch)[:, :10], network.hidden({"input_ids": ids}), atol=1e-5
    )


def test_an_encoder_decoder_refuses_documents():
    batch = make_batch("seq2seq") | {"document_ids": torch.zeros(3, 10, dtype=torch.long)}
    with pytest.raises(RecipeError, match=r"data\.boundaries"):
        make("seq2seq").hidden(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_network(kind):
    first, again, other = (
        make(kind).state_dict(),
        make(kind).state_dict(),
        make(kind, 2).state_dict(),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only(kind):
    network = make(kind, dropout=0.5)
    batch = make_batch(kind)
    torch.manual_seed(1)
    first = network.hidden(batch)
    torch.manual_seed(2)
    assert not torch.equal(first, network.hidden(batch))
    network.eval()
    assert torch.equal(network.hidden(batch), network.hidden(batch))


def test_size_counts_weights_once():
    tied, untied = make("decoder").size(), make("decoder-untied").size()
    # Embedding 61 * 16; two layers of 4 square matrices, 3 of 16 x 64, 2 norms; a norm.
    layer = 4 * 16 * 16 + 3 * 16 * 64 + 2 * 16
    assert tied.parameters == 61 * 16 + 2 * layer + 16
    assert tied.embedding == 0
    assert untied.embedding == 61 * 16
    assert tied.flops_per_token == 6 * tied.parameters + 12 * 2 * 16 * CONTEXT
    # The untied network has one key and value head of two.
    fewer = 2 * 2 * 16 * 8
    assert untied.parameters == tied.parameters + 61 * 16 - fewer
    assert untied.flops_per_token == tied.flops_per_token - 6 * fewer


@pytest.mark.parametrize("kind", KINDS)
def test_size_of_every_kind(kind):
    network = make(kind)
    size = network.size()
    assert size.parameters == size.trainable == sum(p.numel() for p in network.parameters())
    assert size.flops_per_token > 0
    assert size.layers == len(network.blocks())
    inside = {id(p) for block in network.blocks() for p in block.parameters()}
    assert len(inside) == sum(len(list(b.parameters())) for b in network.blocks())
    if network.output is not None:
        assert not inside & {id(p) for p in network.output.parameters()}


def test_initial_loss_is_that_of_a_guess():
    # A network that starts sure of something starts worse than one that knows nothing.
    for kind in ("decoder", "encoder-masked", "seq2seq", "seq2seq-untied", "lstm"):
        network = make(kind).eval()
        logits = network(make_batch(kind))
        assert logits.logsumexp(-1).mean() - logits.mean() < 1.3 * torch.log(torch.tensor(61.0))


def test_residual_writers_start_smaller():
    network = make("decoder", width=128, layers=8)
    stds = {
        name.rsplit(".", 2)[-2]: float(p.detach().std())
        for name, p in network.named_parameters()
        if "layers.0" in name and p.ndim == 2
    }
    assert stds["q_proj"] == pytest.approx(0.02, rel=0.1)
    assert stds["o_proj"] == pytest.approx(0.02 / 4, rel=0.1)
    assert stds["down_proj"] == pytest.approx(0.02 / 4, rel=0.1)


def test_plain_causal_attention_has_no_mask():
    network = make("decoder")
    seen = []
    layer = network.blocks()[0]
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    network.hidden(make_batch("decoder"))
    assert seen == [None]


def test_the_second_text_of_a_pair_has_its_own_token_type():
    network = make("encoder-classifier").eval()
    batch = make_batch("encoder-classifier")
    types = torch.zeros_like(batch["input_ids"])
    types[:, 5:] = 1
    stock = network(batch)
    assert torch.equal(network(batch | {"token_type_ids": types * 0}), stock)
    assert not torch.allclose(network(batch | {"token_type_ids": types}), stock, atol=1e-5)
