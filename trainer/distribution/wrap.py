"""Makes one network of many: copies that agree (DDP), or shards of one (FSDP2).

What is wrapped is a module whose `forward` returns a tuple that holds the loss, because
DDP and FSDP act through the hooks of `forward` and `backward`.

Invariants: gradients come out as sums over ranks under both strategies (see `gradients`);
names of parameters, once cleaned of what wrappers put into them, are those of the bare
module, so that a checkpoint of one strategy fits the other.

Under FSDP a network may be called only through the wrapped module: outside of it its
weights are shards. `full_state` gathers them.
"""

# Annotations stay objects in this module: DDP compares those of its hook with `is`.

from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from trainer.distribution.group import Group
from trainer.errors import RecipeError

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What DDP puts before a name, and what torch.compile and activation checkpointing put into it.
_DDP_PREFIX: Final = "module."
_WRAPPERS: Final = ("_orig_mod.", "_checkpoint_wrapped_module.")


class Blocked(Protocol):
    """What `distribute` needs of a network."""

    def blocks(self) -> list[nn.Module]:
        """Return the repeated layers, which are sharded and recomputed one by one."""
        ...


def distribute(
    module: nn.Module,
    network: Blocked,
    *,
    strategy: str,
    dtype: str,
    group: Group,
    activation_checkpointing: bool = False,
    compile_blocks: bool = False,
) -> nn.Module:
    """Return `module`, on the group's device, as one rank's part of the whole.

    Args:
        module: holds `network`; its `forward` returns a tuple of tensors with the loss.
        network: names the blocks.
        strategy: "ddp" or "fsdp"; "auto" is ddp. One rank is left as it is under ddp.
        dtype: "float32" or "bfloat16": what FSDP gathers weights in. Under DDP that is
            autocast's business. Gradients are summed in float32 either way.
        group: the ranks; it must be connected for fsdp.
        activation_checkpointing: recompute each block's activations in `backward`.
        compile_blocks: compile each block in place. Block by block: it takes seconds instead
            of minutes, since blocks are alike, and the collectives stay outside.

    Raises:
        RecipeError: fsdp for a network without blocks, or an unknown strategy.
    """
    if strategy not in {"auto", "ddp", "fsdp"}:
        raise RecipeError(f"distribution.strategy is {strategy!r}; it may be auto, ddp or fsdp")
    module.to(group.device)
    if activation_checkpointing:
        _checkpoint_activations(module, network)
    if compile_blocks:
        for block in network.blocks():
            block.compile()
    if strategy == "fsdp":
        return _shard(module, network, _DTYPES[dtype], group)
    if group.world == 1:
        return module
    # A part that is not used (a pooler, a cluster of the adaptive softmax without a target)
    # must not stop the run; finding it costs about a millisecond a step.
    copies = DistributedDataParallel(
        module,
        device_ids=None if group.device.type == "cpu" else [group.device],
        forward_sync_buffers=False,
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )
    copies.register_comm_hook(None, _sum_bucket)
    return copies


def release_weights(module: nn.Module) -> None:
    """Let go of weights that a forward pass without a backward pass gathered.

    FSDP keeps the root's weights whole between forward and backward; after a validation
    no backward pass comes to shard them again, and a checkpoint would meet whole ones.
    """
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def clean_name(name: str) -> str:
    """Return a parameter's name as the bare module has it."""
    name = name.removeprefix(_DDP_PREFIX)
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def full_state(network: nn.Module) -> dict[str, Tensor]:
    """Return whole weights and buffers in CPU memory on rank 0, and nothing on the others.

    Every rank must call it. A matrix with several names is one tensor under all of them.
    Only one weight at a time is gathered, so the GPUs need room for the largest alone.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    whole: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            detached = value.detach()
            gathered = detached.full_tensor() if isinstance(detached, DTensor) else detached
            # A copy, on the CPU as well: training may go on while this is written.
            seen[id(value)] = gathered.to("cpu", copy=True) if first else gathered.new_empty(0)
        if first:
            whole[clean_name(name)] = seen[id(value)]
    return whole


def _checkpoint_activations(module: nn.Module, network: Blocked) -> None:
    blocks = {id(block) for block in network.blocks()}
    apply_activation_checkpointing(module, check_fn=lambda each: id(each) in blocks)


def _shard(module: nn.Module, network: Blocked, dtype: torch.dtype, group: Group) -> nn.Module:
    blocks = network.blocks()
    if not blocks:
        raise RecipeError(
            "distribution.strategy is 'fsdp', but this network has no repeated layers to "
            "shard; use 'ddp'"
        )
    mesh = init_device_mesh(group.device.type, (group.world,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.set_gradient_divide_factor(1.0)
            # Gloo has no reduction that scales; a plain sum is what is wanted anyhow.
            each.set_force_sum_reduction_for_comms(True)
            # Ranks may use different parts (clusters of the adaptive softmax): without this
            # they would pair sums of different sizes.
            each.set_reduce_scatter_unused_params(True)
    return module


def _sum_bucket(state: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's hook: the sum over ranks, where DDP's own would be the mean."""
    del state
    work = dist.all_reduce(bucket.buffer(), op=dist.ReduceOp.SUM, async_op=True)
    summed: torch.futures.Future[torch.Tensor] = work.get_future().then(
        lambda future: future.value()[0]
    )
    return summed
