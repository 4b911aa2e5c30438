"""A linear layer with LoRA adapters whose passes cost little more than the layer's own."""

from __future__ import annotations

import torch
from peft.tuners import lora
from torch.nn.functional import linear


class LoraLinear(lora.Linear):
    """peft's layer with a forward and a backward pass of its own: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ ("LoRA", 2106.09685), all in x's dtype.

    The adapter's weights keep their own dtype (fp32), and so do their gradients; of the activations only x is kept for the backward pass.
    peft's pass is used where it does more: dropout that is on, DoRA and other variants, several adapters at once, a bias of the adapter's.
    """

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if not self._is_plain(args, kwargs):
            return super().forward(x, *args, **kwargs)
        if self.disable_adapters:
            return self.base_layer(x)
        role, base = self.active_adapters[0], self.base_layer
        return _LoraLinear.apply(x, base.weight, base.bias, self.lora_A[role].weight, self.lora_B[role].weight, self.scaling[role])

    def _is_plain(self, args, kwargs) -> bool:
        if args or kwargs or self.merged or type(self.base_layer) is not torch.nn.Linear or self.base_layer.weight.requires_grad:
            return False
        if self.disable_adapters:
            return True
        role = self.active_adapters[0]
        if len(self.active_adapters) != 1 or role not in self.lora_A or role in self.lora_variant or self.lora_B[role].bias is not None:
            return False
        return not self.training or isinstance(self.lora_dropout[role], torch.nn.Identity)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale: float):
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        rows = x.flatten(0, -2)
        y = linear(rows, weight, bias).addmm_(rows @ a.to(x.dtype).T, b.to(x.dtype).T, alpha=scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b = ctx.saved_tensors
        rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)
        low, high = a.to(x.dtype), b.to(x.dtype)
        down = grad_rows @ high
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[3]:
            grad_a = (down.T @ rows).to(a.dtype).mul_(ctx.scale)
            grad_b = (grad_rows.T @ (rows @ low.T)).to(b.dtype).mul_(ctx.scale)
        if ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ weight).addmm_(down, low, alpha=ctx.scale).view_as(x)
        return grad_x, None, None, grad_a, grad_b, None


def use_own_passes(layer: torch.nn.Module) -> None:
    """Give a layer that peft made the passes above, if it is one of its plain linear layers."""
    if type(layer) is lora.Linear:
        layer.__class__ = LoraLinear
