"""Optimizers: who moves what, by how much, and what is kept of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.trainer.models.networks import make
from tests.trainer.objectives.tiny import Tiny
from trainer.errors import RecipeError
from trainer.optimization.optimizers import Optimizers, build_optimizer
from trainer.recipe.schema import OptimizerOptions

CPU = torch.device("cpu")
NAMES = ("adamw", "muon", "sgd")


def _network(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(20, 8, nn.Linear(8, 20))


def _build(network: Tiny, **values: object) -> Optimizers:
    return build_optimizer(network, OptimizerOptions(**values), CPU)  # type: ignore[arg-type]


def _update(network: Tiny, optimizers: Optimizers, seed: int) -> None:
    torch.manual_seed(seed)
    optimizers.zero_grad()
    ids = torch.randint(20, (4, 5))
    nn.functional.cross_entropy(network({"input_ids": ids}).flatten(0, 1), ids.flatten()).backward()
    optimizers.step()


def _weights(network: Tiny) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_is_moved_once(name: str) -> None:
    network = _network()
    network.norm.weight.requires_grad_(False)
    optimizers = _build(network, name=name)
    moved = [id(parameter) for parameter in optimizers.parameters()]
    assert len(moved) == len(set(moved))
    assert set(moved) == {id(p) for p in network.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_updates_lower_the_loss_and_leave_frozen_parameters_alone(name: str) -> None:
    network = _network()
    network.table.weight.requires_grad_(False)
    before = _weights(network)
    optimizers = _build(network, name=name, learning_rate=0.01)
    ids = torch.arange(20).view(4, 5)
    losses = []
    for _ in range(30):
        optimizers.zero_grad()
        logits = network({"input_ids": ids}).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, ids.flatten())
        loss.backward()
        optimizers.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = _weights(network)
    assert torch.equal(before["table.weight"], after["table.weight"])
    assert not torch.equal(before["dense.weight"], after["dense.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_matrices_shrink_by_rate_times_decay_and_vectors_do_not(name: str) -> None:
    network = _network()
    before = _weights(network)
    optimizers = _build(network, name=name, learning_rate=0.1, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.set_factor(0.5)
    optimizers.step()
    for key, value in _weights(network).items():
        shrink = 1 - 0.05 * 0.5 if value.ndim > 1 else 1.0
        torch.testing.assert_close(value, before[key] * shrink, msg=key)


def test_decoupled_sgd_is_momentum_beside_decay() -> None:
    network = _network()
    optimizers = _build(network, name="sgd", learning_rate=0.1, weight_decay=0.5, beta1=0.8)
    weight = network.dense.weight
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for seed in range(3):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight.grad = gradient.clone()
        optimizers.step()
        momentum = 0.8 * momentum + gradient
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * momentum
    torch.testing.assert_close(weight.detach(), expected)


def test_adamw_is_fused_and_computes_the_definition() -> None:
    network = _network()
    optimizers = _build(
        network, learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, epsilon=1e-6
    )
    assert all(group["fused"] for group in optimizers.parts[0].param_groups)
    weight = network.dense.weight
    expected = weight.detach().clone()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 4):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        weight.grad = gradient.clone()
        optimizers.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        update = first / (1 - 0.8**step) / ((second / (1 - 0.9**step)).sqrt() + 1e-6)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * update
    torch.testing.assert_close(weight.detach(), expected)


def test_muon_moves_the_matrices_of_the_blocks_by_nearly_orthogonal_steps() -> None:
    network = _network()
    optimizers = _build(
        network, name="muon", learning_rate=0.003, muon_learning_rate=0.02, weight_decay=0
    )
    muon, rest = optimizers.parts
    assert isinstance(muon, torch.optim.Muon)
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(network.dense.weight)]
    assert id(network.table.weight) in {id(p) for g in rest.param_groups for p in g["params"]}
    before = network.dense.weight.detach().clone()
    _update(network, optimizers, seed=1)
    singular = torch.linalg.svdvals((network.dense.weight.detach() - before) / 0.02)
    # Five Newton-Schulz steps bring singular values near 1, not onto it.
    assert singular.max().item() < 1.5
    assert singular.median().item() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_factor_scales_every_peak(name: str) -> None:
    optimizers = _build(_network(), name=name, learning_rate=0.01, muon_learning_rate=0.04)
    optimizers.set_factor(0.5)
    optimizers.set_factor(0.25)  # of the peak, not of the rate before
    rates = [group["lr"] for part in optimizers.parts for group in part.param_groups]
    assert set(rates) == ({0.01, 0.0025} if name == "muon" else {0.0025})
    assert optimizers.learning_rate == 0.0025


@pytest.mark.parametrize("name", NAMES)
def test_a_state_kept_by_name_continues_exactly(name: str) -> None:
    network = _network()
    optimizers = _build(network, name=name)
    for seed in range(3):
        _update(network, optimizers, seed)
    optimizers.set_factor(0.5)
    kept = copy.deepcopy(get_optimizer_state_dict(network, list(optimizers.parts)))
    weights = _weights(network)
    _update(network, optimizers, seed=9)

    other = _network(seed=5)
    other.load_state_dict(weights)
    resumed = _build(other, name=name)
    set_optimizer_state_dict(other, list(resumed.parts), kept)
    assert resumed.learning_rate == optimizers.learning_rate
    _update(other, resumed, seed=9)
    for key, value in _weights(other).items():
        assert torch.equal(value, _weights(network)[key]), key
    # The peaks are the recipe's, whatever rate was saved.
    resumed.set_factor(1.0)
    assert resumed.learning_rate == OptimizerOptions().learning_rate


def test_nothing_trainable_is_refused() -> None:
    network = _network().requires_grad_(False)
    with pytest.raises(RecipeError, match="frozen"):
        _build(network)


def test_muon_leaves_the_table_of_relative_positions_to_adamw() -> None:
    network = make("seq2seq")
    options = OptimizerOptions(name="muon")
    muon, rest = build_optimizer(network, options, CPU).parts
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    assert len(tables) == 3  # of tokens, and of relative positions in both stacks
    assert not tables & {id(p) for g in muon.param_groups for p in g["params"]}
    assert tables <= {id(p) for g in rest.param_groups for p in g["params"]}


def test_muon_without_matrices_in_the_blocks_is_refused() -> None:
    network = _network()
    network.dense.requires_grad_(False)
    with pytest.raises(RecipeError, match="muon"):
        _build(network, name="muon")


def test_muon_alone_when_nothing_else_is_trainable() -> None:
    network = _network().requires_grad_(False)
    network.dense.weight.requires_grad_(True)
    assert len(_build(network, name="muon").parts) == 1


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of views, which nobody changes here
def test_muon_under_fsdp_is_refused_and_adamw_moves_shards_as_it_moves_wholes() -> None:
    whole, sharded = _network(), _network()
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(sharded.dense, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    with pytest.raises(RecipeError, match="fsdp"):
        _build(sharded, name="muon")
    for name in ("adamw", "sgd"):
        pairs = [(network, _build(network, name=name)) for network in (whole, sharded)]
        for seed in range(3):
            for network, optimizers in pairs:
                _update(network, optimizers, seed)
        for ours, theirs in zip(whole.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(theirs.full_tensor(), ours)  # type: ignore[attr-defined]
