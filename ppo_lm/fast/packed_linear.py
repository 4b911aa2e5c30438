"""A linear layer whose weight rarely changes, in the layout that its products read."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from ppo_lm import kernels
from ppo_lm.kernels import cpu


class PackedLinear:
    """y = x·Wᵀ + b. On a CPU the weight is laid out once, for our own products or for oneDNN's; otherwise that happens
    in every call, and takes most of the time if there are few rows. It costs a second copy of the weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int):
        """`rows`: how many rows x will have, about; a hint for oneDNN's layout."""
        self.bias, self.rows = bias, rows
        self.packed = cpu.Packed(weight.T) if kernels.find_products(weight) else None
        self._has_layout = self.packed is None and has_layouts(weight)
        if self.packed is None:
            self.load(weight)

    def load(self, weight: torch.Tensor) -> None:
        """Use this weight from now on: a copy in another layout, or, where none is needed, the tensor itself."""
        if self.packed:
            self.packed.load(weight.T)
        else:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, self.rows) if self._has_layout else weight

    @property
    def plain_weight(self) -> torch.Tensor | None:
        """The tensor itself, if no other layout was needed."""
        return None if self.packed or self._has_layout else self._weight

    def __call__(self, x: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """(n, in) → (n, out). `into`: where to write it; only without a bias."""
        if self.packed:
            return cpu.sum_products([(x, self.packed)], self.bias, into)
        if self._has_layout:
            y = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
            return y if into is None else into.copy_(y)
        return linear(x, self._weight, self.bias) if into is None else torch.mm(x, self._weight.T, out=into)


def has_layouts(weight: torch.Tensor) -> bool:
    """Whether torch has oneDNN's layouts for a weight of this dtype on this device; its own compiler uses the same
    ones."""
    is_built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return is_built and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
