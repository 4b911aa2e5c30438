"""Frozen linear layers whose weights are held in 8 or 4 bits, for one layer at a time made dense, and not kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ppo_lm.fast.adapted_linear import AdaptedLinear
from ppo_lm.fast.linear_pass import pass_linear
from ppo_lm.fast.quantisation import NONE, decode, encode


class QuantisedLinear(nn.Linear):
    """y = x·Wᵀ + c in x's dtype, with W held as `quantisation.encode` makes it, in buffers.

    `weight` is dense, made at every access. A state dict has it too, on the CPU, and not the buffers: it is that of a
    plain layer. The backward pass makes it again.
    """

    def __init__(self, layer: nn.Linear, kind: str, device: torch.device):
        """Take the place of `layer`, on `device`."""
        nn.Module.__init__(self)  # that of nn.Linear makes a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind, self.dtype = kind, layer.weight.dtype
        self._names = []
        for name, tensor in encode(layer.weight.detach().to(device), kind).items():
            self.register_buffer(name, tensor, persistent=False)
            self._names.append(name)
        self.bias: Any = layer.bias
        self.register_buffer("low_rank_a", None, persistent=False)
        self.register_buffer("low_rank_b", None, persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`dense`, in the dtype of the layer that was quantised."""
        return self.dense(self.dtype)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, (O, I)."""
        encoded = {name: getattr(self, name) for name in self._names}
        shape = torch.Size((self.out_features, self.in_features))
        if self.low_rank_a is None or self.low_rank_b is None:
            return decode(encoded, shape, dtype)
        return torch.addmm(decode(encoded, shape, torch.float32), self.low_rank_b, self.low_rank_a).to(dtype)

    @torch.no_grad()
    def add(self, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        """Add s·B·A to the weight for good, unquantised: quantising the sum would round a small adapter away. a: (r,
        I), b: (O, r)."""
        a, b = a.detach().float().clone(), b.detach().float() * scale
        known = self.low_rank_a is not None and self.low_rank_b is not None
        self.low_rank_a = torch.cat([self.low_rank_a, a]) if known else a
        self.low_rank_b = torch.cat([self.low_rank_b, b], dim=1) if known else b

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., I) → (..., O)."""
        return pass_linear(input, AdaptedLinear(None, self.bias, None, None, make_dense=self.dense))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight.cpu()
        super()._save_to_state_dict(destination, prefix, keep_vars)


def quantise_layers(network: nn.Module, names: list[str], kind: str, device: torch.device) -> None:
    """Replace the linear layers of these names, in place, one after the other, so that only one dense weight at a time
    is on `device`."""
    for name in names:
        parent, _, own_name = name.rpartition(".")
        layer: Any = network.get_submodule(name)
        setattr(network.get_submodule(parent), own_name, QuantisedLinear(layer, kind, device))


def quantised_layers(network: nn.Module) -> list[QuantisedLinear]:
    """Those of a network."""
    return [module for module in network.modules() if isinstance(module, QuantisedLinear)]


def find_quantisation(network: nn.Module) -> str:
    """The kind of its quantised layers, `NONE` if it has none."""
    return next((layer.kind for layer in quantised_layers(network)), NONE)


def dense_parameters(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """`network.named_parameters()`, with the dense weights of quantised layers in their places, each made when it is
    its turn."""
    seen = set()
    for prefix, module in network.named_modules():
        name = f"{prefix}." if prefix else ""
        if isinstance(module, QuantisedLinear):
            yield f"{name}weight", module.weight
        for own_name, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield name + own_name, parameter
