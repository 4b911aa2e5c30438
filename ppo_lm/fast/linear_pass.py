"""One linear layer with at most one adapter, forward and back, which keeps only its input for the backward pass."""

from __future__ import annotations

import torch

from ppo_lm.fast.adapted_linear import AdaptedLinear, apply, gradients


def pass_linear(x: torch.Tensor, layer: AdaptedLinear) -> torch.Tensor:
    """(..., I) → (..., O); see `adapted_linear.apply`."""
    return _Linear.apply(x.flatten(0, -2), layer.constants, *layer.tensors).view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, constants: tuple, *tensors):
        (y,), thin = apply(x, [AdaptedLinear(*tensors, *constants)])
        ctx.save_for_backward(x, thin, *tensors)
        ctx.constants = constants
        return y

    @staticmethod
    def backward(ctx, *grads):
        x, thin, *tensors = ctx.saved_tensors
        layer = AdaptedLinear(*tensors, *ctx.constants)
        grad_x, found = gradients(grads, x, thin, [layer], ctx.needs_input_grad[2:], ctx.needs_input_grad[0])
        return grad_x, None, *found
