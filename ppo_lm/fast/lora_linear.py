"""peft's linear layer, with passes that cost little more than without an adapter."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from transformers.pytorch_utils import Conv1D

from ppo_lm.fast.adapted_linear import AdaptedLinear
from ppo_lm.fast.linear_pass import pass_linear
from ppo_lm.fast.quantised_linear import QuantisedLinear


class LoraLinear(lora.Linear):
    """peft's layer with the forward and backward passes of `adapted_linear`; it keeps only its input for the backward
    pass.

    peft's pass is used where it does more: active dropout, DoRA and other variants, several adapters at once, an
    adapter bias.
    """

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        role = None if self.disable_adapters else self.active_adapters[0]
        if args or kwargs or len(self.active_adapters) > 1 or not is_plain(self, role):
            return super().forward(x, *args, **kwargs)
        return pass_linear(x, adapted(self, role))


def is_plain(module: lora.Linear, role: str | None) -> bool:
    """Whether `module` as `role` (None, or one that has no adapter here: the layer alone) is just y = x·(W + s·B·A)ᵀ +
    c, given whether dropout is on."""
    if module.merged or type(module.base_layer) not in (torch.nn.Linear, QuantisedLinear, Conv1D):
        return False
    if role is None or role not in module.lora_A:
        return True
    if role in module.lora_variant or module.lora_B[role].bias is not None:
        return False
    return not module.training or isinstance(module.lora_dropout[role], torch.nn.Identity)


def adapted(module: torch.nn.Linear | lora.Linear, role: str | None) -> AdaptedLinear:
    """The weights of a plain linear layer, or one that `is_plain`."""
    base: Any = module.base_layer if isinstance(module, lora.Linear) else module
    if isinstance(base, QuantisedLinear):
        plain = AdaptedLinear(None, base.bias, None, None, make_dense=base.dense)
    else:
        plain = AdaptedLinear(base.weight.T if isinstance(base, Conv1D) else base.weight, base.bias, None, None)
    if not isinstance(module, lora.Linear) or role is None or role not in module.lora_A:
        return plain
    a: Any = module.lora_A[role]
    b: Any = module.lora_B[role]
    return plain._replace(a=a.weight, b=b.weight, scale=module.scaling[role])


def use_own_passes(layer: object) -> None:
    """Give one of peft's linear layers the passes above."""
    if type(layer) is lora.Linear:
        layer.__class__ = LoraLinear
