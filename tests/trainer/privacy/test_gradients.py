from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from tests.trainer.models.networks import CONTEXT, LABELS, VOCABULARY, make
from tests.trainer.objectives.tiny import Tiny
from tests.trainer.privacy.naive import (
    PRIVATE_KINDS,
    clipped_sum,
    distance,
    labelled_batch,
    make_step,
    naive_gradients,
    norm_of,
    objective_step,
    row,
)
from trainer.loop.step import Step
from trainer.models.decoder import Decoder
from trainer.models.parts import apply_parts
from trainer.models.transformer import Arrangement
from trainer.objectives.classification import Classification
from trainer.privacy.clipping import Clipping
from trainer.privacy.errors import PrivacyError
from trainer.privacy.gradients import PerExampleGradients
from trainer.recipe.schema import PartsOptions

NO_LIMIT = Clipping("flat", 1e6)
LORA = PartsOptions(adapter="lora", lora_rank=3)


def gradients(step, clipping=NO_LIMIT):
    return PerExampleGradients(step, step.network, clipping)


def norms(step, batch):
    """The norm of each example, one at a time, from statistics of one row that counts."""
    computed = gradients(step)
    rows = len(batch["input_ids"])
    return [computed.accumulate(batch, one_hot(rows, i)).median_norm for i in range(rows)]


def one_hot(rows, index):
    return torch.eye(rows)[index]


def check_against_loop(step, batch, *, rel=1e-5):
    """Norms to 1e-5, and a clipped sum with weights, some of which are 0."""
    exact = naive_gradients(step, batch)
    expected = [norm_of(each) for each in exact]
    assert norms(step, batch) == pytest.approx(expected, rel=rel)
    weights = [1.0, 0.0, 0.5, 2.0]
    clip = sorted(expected)[1]
    computed = gradients(step, Clipping("flat", clip))
    statistics = computed.accumulate(batch, torch.tensor(weights))
    assert statistics.examples == 3
    assert statistics.nonfinite == 0
    limited = [norm > clip * (1 - 2e-5) for norm in expected]
    assert statistics.clipped == pytest.approx(sum(limited[i] for i in (0, 2, 3)) / 3)
    assert distance(computed.take(), clipped_sum(exact, weights, clip)) < 3e-5


@pytest.mark.parametrize("kind", PRIVATE_KINDS)
def test_all_weights_of_every_family(kind):
    check_against_loop(make_step(kind), labelled_batch(kind))


ADAPTED = [
    ("lora", kind) for kind in ("encoder-classifier", "encoder-masked", "decoder", "seq2seq")
]
ADAPTED += [
    ("bitfit", kind) for kind in ("encoder-classifier", "encoder-masked", "lstm-classifier")
]


@pytest.mark.parametrize(("adapter", "kind"), ADAPTED)
def test_adapters(adapter, kind):
    network = make(kind)
    options = LORA if adapter == "lora" else PartsOptions(adapter="bitfit")
    step = objective_step(kind, apply_parts(network, options))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    # The table is tied to the output layer, and frozen: that harms nothing.
    check_against_loop(step, labelled_batch(kind))


def gpt2_step():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=2,
        n_head=2,
        num_labels=3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=0,
    )
    stock = Arrangement("classification", "stock")
    network = Decoder(GPT2ForSequenceClassification(config), stock, labels=LABELS, context=CONTEXT)
    return Step(network, Classification(label_smoothing=0.0)).train()


@pytest.mark.parametrize("options", [PartsOptions(), LORA], ids=["full", "lora"])
def test_gpt2_with_its_transposed_matrices_and_shared_positions(options):
    step = gpt2_step()
    apply_parts(step.network, options)
    check_against_loop(step, labelled_batch("decoder-classifier"))


def test_a_tied_matrix_gets_the_gradients_of_both_uses():
    network = Tiny(VOCABULARY, 8, nn.Linear(8, VOCABULARY)).tie()
    check_against_loop(objective_step("decoder", network), labelled_batch("decoder"))


def test_a_layer_that_is_used_twice():
    class Twice(Tiny):
        def represent(self, batch):
            return self.norm(self.dense(self.dense(self.table(batch["input_ids"])).tanh()))

    network = Twice(VOCABULARY, 8, nn.Linear(8, VOCABULARY))
    check_against_loop(objective_step("decoder", network), labelled_batch("decoder"))


def test_lowest_layers_are_frozen():
    step = make_step("encoder-classifier")
    apply_parts(step.network, PartsOptions(freeze_layers=1))
    check_against_loop(step, labelled_batch("encoder-classifier"))


def test_only_the_output_layer():
    step = make_step("encoder-classifier")
    apply_parts(step.network, PartsOptions(freeze=("features", "task")))
    check_against_loop(step, labelled_batch("encoder-classifier"))


def test_bounds_hold_for_each_kind_of_clipping():
    step, batch = make_step("encoder-classifier"), labelled_batch("encoder-classifier")
    exact = naive_gradients(step, batch)
    for kind in ("flat", "per-layer", "automatic"):
        computed = gradients(step, Clipping(kind, 0.01))
        for index in range(4):
            computed.accumulate(batch, one_hot(4, index))
            alone = computed.take()
            assert 0.005 < norm_of(alone) <= 0.01
            if kind != "per-layer":
                shape = {
                    n: g * (norm_of(alone) / norm_of(exact[index])) for n, g in exact[index].items()
                }
                assert distance(alone, shape) < 1e-4


def test_layers_are_clipped_one_by_one():
    step, batch = make_step("convolution"), labelled_batch("convolution")
    computed = gradients(step, Clipping("per-layer", 1e-3))
    computed.accumulate(batch, one_hot(4, 0))
    found = computed.take()
    layers = {name.rpartition(".")[0] for name in found}
    assert len(layers) == 4
    for layer in layers:
        own = {name: g for name, g in found.items() if name.startswith(layer + ".")}
        assert norm_of(own) == pytest.approx(1e-3 / 2, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clipping", ["flat", "per-layer", "automatic"])
@pytest.mark.parametrize("kind", ["encoder-classifier", "decoder-untied", "lstm", "convolution"])
def test_an_example_that_is_no_number_counts_for_nothing(kind, clipping, value):
    """One example's loss overflows: the others' sums are as if it were not there."""
    step, batch = make_step(kind), labelled_batch(kind)
    rows = torch.tensor([0, 1, 3])
    computed = gradients(step, Clipping(clipping, 0.5))
    computed.accumulate({name: values[rows] for name, values in batch.items()}, torch.ones(3))
    expected = computed.take()

    def spoiled(given):
        compute = step.network.logits

        def logits(states):
            factor = torch.ones(len(states), *[1] * (states.dim() - 1))
            per_example = len(states) // 4
            factor[2 * per_example : 3 * per_example] = value
            return compute(states * factor)

        step.network.logits = logits  # type: ignore[method-assign]
        try:
            return step(given)
        finally:
            del step.network.logits

    computed = PerExampleGradients(spoiled, step.network, Clipping(clipping, 0.5))
    statistics = computed.accumulate(batch, torch.ones(4))
    assert (statistics.examples, statistics.nonfinite) == (4, 1)
    assert distance(computed.take(), expected) < 1e-5


def test_rows_of_weight_zero_and_sums_of_many_micro_batches():
    step, batch = make_step("encoder-classifier"), labelled_batch("encoder-classifier")
    computed = gradients(step, Clipping("flat", 0.1))
    computed.accumulate(batch, torch.ones(4))
    whole = computed.take()
    for index in range(4):
        other = dict(row(batch, index))
        twice = {name: torch.cat([values, values]) for name, values in other.items()}
        computed.accumulate(twice, torch.tensor([1.0, 0.0]))
    assert distance(computed.take(), whole) < 1e-5
    statistics = computed.accumulate(batch, torch.zeros(4))
    assert (statistics.examples, statistics.clipped, statistics.median_norm) == (0, 0.0, 0.0)
    assert all(not bool(values.any()) for values in computed.take().values())


@pytest.mark.parametrize("kind", ["encoder-classifier", "decoder-untied", "seq2seq-untied"])
def test_rows_that_fill_up_are_in_no_figure(kind):
    step, batch = make_step(kind), labelled_batch(kind)
    computed = gradients(step)
    labels = batch["labels"].clone()
    found = computed.accumulate(batch, torch.tensor([1.0, 0.0, 1.0, 0.0])).loss
    apart = [computed.accumulate(row(batch, index), torch.ones(1)).loss for index in (0, 2)]
    for one, *others in zip(found, *apart, strict=True):
        assert torch.allclose(one, sum(others) if one >= 0 else one, rtol=1e-4)
    assert torch.equal(batch["labels"], labels)
    nothing = computed.accumulate(batch, torch.zeros(4)).loss
    assert (float(nothing.total), float(nothing.plain), int(nothing.targets)) == (0.0, 0.0, 0)


def test_a_batch_without_any_target():
    step, batch = make_step("encoder-masked"), labelled_batch("encoder-masked")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    computed = gradients(step)
    assert computed.accumulate(batch, torch.ones(4)).median_norm == 0.0
    assert all(not bool(values.any()) for values in computed.sums.values())


def test_the_network_is_left_as_it_was():
    step, batch = make_step("lstm"), labelled_batch("lstm")
    before = {name: (p.requires_grad, p.grad) for name, p in step.named_parameters()}
    expected = step(batch).total
    computed = gradients(step)
    statistics = computed.accumulate(batch, torch.ones(4))
    assert {name: (p.requires_grad, p.grad) for name, p in step.named_parameters()} == before
    assert torch.equal(step(batch).total, expected)
    assert torch.allclose(statistics.loss.total, expected)
    assert not statistics.loss.total.requires_grad


def test_an_error_inside_leaves_the_network_as_it_was():
    step, batch = make_step("lstm"), labelled_batch("lstm")

    def fails(given):
        step(given)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        PerExampleGradients(fails, step.network, NO_LIMIT).accumulate(batch, torch.ones(4))
    assert all(p.requires_grad for p in step.parameters())
    step(batch).total.backward()
    assert all(p.grad is not None for p in step.parameters())


def test_recomputed_activations_change_nothing():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    step, batch = make_step("encoder-classifier"), labelled_batch("encoder-classifier")
    computed = gradients(step, Clipping("flat", 0.1))
    computed.accumulate(batch, torch.ones(4))
    expected = computed.take()
    blocks = {id(block) for block in step.network.blocks()}
    apply_activation_checkpointing(step, check_fn=lambda each: id(each) in blocks)
    computed = gradients(step, Clipping("flat", 0.1))
    computed.accumulate(batch, torch.ones(4))
    found = {n.replace("_checkpoint_wrapped_module.", ""): g for n, g in computed.take().items()}
    assert distance(found, expected) < 1e-6


def test_mixed_precision_is_summed_in_float32():
    step, batch = make_step("encoder-classifier"), labelled_batch("encoder-classifier")
    computed = gradients(step, Clipping("flat", 0.1))
    computed.accumulate(batch, torch.ones(4))
    exact = computed.take()
    computed.accumulate(
        batch, torch.ones(4), autocast=lambda: torch.autocast("cpu", torch.bfloat16)
    )
    rough = computed.take()
    assert all(values.dtype == torch.float32 for values in rough.values())
    assert 1e-4 < distance(rough, exact) < 0.05


def test_an_adaptive_softmax_is_refused():
    network = make("lstm-adaptive")
    with pytest.raises(PrivacyError, match=r"adaptive softmax.*objective\.softmax"):
        PerExampleGradients(objective_step("lstm", network), network, NO_LIMIT)


def test_a_number_of_weights_that_is_not_that_of_the_examples():
    step, batch = make_step("lstm"), labelled_batch("lstm")
    with pytest.raises(PrivacyError, match="4 examples and"):
        gradients(step).accumulate(batch, torch.ones(3))


def test_examples_that_cannot_be_told_apart():
    class Packed(Tiny):
        def represent(self, batch):
            flat = self.table(batch["input_ids"].flatten())
            return self.norm(self.dense(flat).tanh()).view(*batch["input_ids"].shape, -1)

    network = Packed(VOCABULARY, 8, nn.Linear(8, VOCABULARY))
    step = objective_step("decoder", network)
    with pytest.raises(PrivacyError, match="told apart by example"):
        gradients(step).accumulate(labelled_batch("decoder"), torch.ones(4))


def test_products_that_are_rounded_are_refused():
    step = make_step("lstm")
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(PrivacyError, match="rounded to fewer digits"):
            gradients(step)
    finally:
        torch.set_float32_matmul_precision("highest")
