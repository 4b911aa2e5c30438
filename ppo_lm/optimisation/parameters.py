"""What an optimiser updates in place of weights that it cannot update themselves, and the norm of its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from ppo_lm.distributed import processes
from ppo_lm.distributed.slices import is_sharded, own_slice


def stand_in(weight: nn.Parameter) -> torch.Tensor:
    """What accumulates the gradients of `weight` in fp32 and takes its updates: the weight itself; or, if it is of
    lower precision, a copy; or, if it is sharded, its slice, in the same memory. The last two leave it no gradients."""
    if weight.dtype.itemsize >= 4 and not is_sharded(weight):
        return weight
    own = own_slice(weight.detach())
    own = (own.float() if weight.dtype.itemsize < 4 else own).requires_grad_()

    def move_gradient(_: torch.Tensor) -> None:
        assert weight.grad is not None  # the hook runs once it is there
        gradient = own_slice(weight.grad)
        own.grad = gradient.to(own.dtype) if own.grad is None else own.grad.add_(gradient)
        weight.grad = None

    weight.register_post_accumulate_grad_hook(move_gradient)
    return own


def gradient_norm(parameters: Sequence[torch.Tensor], slices: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of the gradients of `parameters`, which are the same in all processes, and of `slices`, of which each
    process has its own. All processes have to ask for it if there are slices."""
    norm = _norm(parameters)
    if not slices:
        return norm
    square = _norm(slices).square()
    processes().add_up([square])
    return torch.hypot(norm.to(square.device), square.sqrt())


def _norm(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    return get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
