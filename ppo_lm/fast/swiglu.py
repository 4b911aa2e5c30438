"""silu(gate)·up, the activation of "GLU variants improve transformer" (2002.05202), and its gradients. Functions that
autograd does not see: one kernel each, or operations in place where they can be."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from ppo_lm import kernels


def swiglu(gate: torch.Tensor, up: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """(N, I) each → (N, I). `into`: where to write it; its rows may have gaps between them."""
    found = kernels.find(gate, up)
    if found:
        return found.swiglu(gate, up, into)
    active = silu(gate)
    return torch.mul(active, up, out=active if into is None else into)


def swiglu_gradients(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The product `swiglu(gate, up)` and the gradients of the gate and of up, given that of the product, a contiguous
    tensor whose memory is reused. (N, I) each."""
    found = kernels.find(grad, gate, up)
    if found:
        return found.swiglu_gradients(grad, gate, up)
    active = silu(gate)
    product, grad_up = active * up, active.mul_(grad)
    return product, torch.ops.aten.silu_backward.grad_input(grad.mul_(up), gate, grad_input=grad), grad_up
