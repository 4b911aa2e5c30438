"""Weights of which each process holds a slice: torch's DTensors, sharded along their first dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
