"""Weights, gradients and optimizer state cut over the workers: FSDP2 (Zhao et al. 2023; torch's `fully_shard`).

Every worker runs the same modules in the same order, for each of them is put together by all workers together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from models.towers import VisionTower


def shard(model: nn.Module, device: torch.device) -> None:
    """Cuts `model` over all ranks, in place and onto `device`: each transformer block by itself, then the rest.

    The numbers are those of a whole model: weights are gathered in the type that they are held in, so that autocast
    meets the same ones; gradients are added up in float32, not averaged, for the loss is divided by a global count.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for block in [*_blocks(model), model]:
        # A root that stayed whole after a forward pass without a backward pass would show whole weights as its own.
        cut: Any = fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        cut.set_gradient_divide_factor(1.0)
        cut.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        cut.set_reduce_scatter_unused_params(True)  # what one rank's batch has no use for, another's may


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` cut the model."""
    return isinstance(model, FSDPModule)


def summed(parameter: nn.Parameter) -> bool:
    """Whether a parameter's gradient is added up over the ranks while it is computed."""
    return isinstance(parameter, DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be cut over the ranks, put together; all ranks must call it, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensor: torch.Tensor, keep: bool) -> torch.Tensor:
    """A copy of a `whole` tensor on the CPU; an empty one on ranks that need not keep it."""
    put_together = whole(tensor)
    return put_together.to("cpu", copy=True) if keep else torch.empty(0)


def cut_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor, cut as `like` is; the tensor itself where `like` is whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_state(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """An optimizer's state dict as `collected` tensors, the same whether it is cut or not."""
    state = optimizer.state_dict()
    held = {
        number: {name: collected(value, keep) for name, value in one.items()} for number, one in state["state"].items()
    }
    return {**state, "state": held}


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `whole_state` gave, with any number of ranks."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    held = {
        number: {name: cut_like(value, parameters[number]) if value.ndim else value for name, value in one.items()}
        for number, one in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": held})


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The layers that repeat: members of the outermost lists of modules of one class, which are not whole towers."""
    for child in model.children():
        members = list(child.children())
        repeat = isinstance(child, nn.ModuleList | nn.Sequential) and len({*map(type, members)}) == 1
        if repeat and len(members) > 1 and not isinstance(members[0], VisionTower):
            yield from members
        else:
            yield from _blocks(child)
