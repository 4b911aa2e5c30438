"""Weights of which each process holds a slice: torch's DTensors, dealt out along their first dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppo_lm.distributed.current import processes

if TYPE_CHECKING:
    import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this process holds only a slice of it."""
    return hasattr(tensor, "placements")


def own_slice(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds, in the same memory; all of it unless it is sharded."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it was before it was sharded. All processes have to ask for it, and to pass back through it equally
    often: its gradient is added up over them, and each gets its slice."""
    full_tensor = getattr(tensor, "full_tensor", None)
    if full_tensor is None:
        return tensor
    from torch.distributed.tensor import Partial

    return full_tensor(grad_placements=[Partial()])


def gather(tensors: Mapping[str, torch.Tensor], everywhere: bool = False) -> dict[str, torch.Tensor]:
    """The tensors, with those that are sharded gathered one at a time and whole on the CPU of the first process, or
    `everywhere`; the other processes, which have to ask too, get only those that are not sharded."""
    found, made = {}, dict[int, Any]()
    keeps = everywhere or processes().place.is_first
    for name, tensor in tensors.items():
        if not is_sharded(tensor):
            found[name] = tensor
            continue
        if id(tensor) not in made:  # a weight may have two names
            gathered = whole(tensor.detach())
            made[id(tensor)] = gathered.cpu() if keeps else None
        if keeps:
            found[name] = made[id(tensor)]
    return found


def slice_like(weight: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The part of `tensor`, which is whole or sharded itself, that belongs to this process's slice of `weight`; all of
    it if the weight is not sharded, or has another shape."""
    sharding: Any = weight
    if is_sharded(tensor) or not is_sharded(weight) or tensor.shape != weight.shape:
        return own_slice(tensor)
    size = sharding.device_mesh.size()
    return (*tensor.chunk(size), *[tensor[:0]] * size)[sharding.device_mesh.get_local_rank()]


def sharded_like(weight: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The sharded tensor of which `own` is what `slice_like` returns: `own` itself if that was all of it."""
    if not is_sharded(weight) or own.shape != own_slice(weight).shape:
        return own
    from torch.distributed.tensor import DTensor

    sharding: Any = weight
    return DTensor.from_local(
        own,
        sharding.device_mesh,
        sharding.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
