"""A linear layer whose weight rarely changes, in the processor's preferred layout."""

from __future__ import annotations

import torch
from torch.nn.functional import linear


class PackedLinear:
    """y = x·Wᵀ + b. On a CPU the weight is laid out for oneDNN once; otherwise that happens in every call, and takes up
    to half the time if there are few rows. It costs a second copy of the weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int):
        """`rows`: how many rows x will have, about; a hint for the layout."""
        self.bias, self.rows, self.is_packed = bias, rows, can_pack(weight)
        self.load(weight)

    def load(self, weight: torch.Tensor) -> None:
        """Use this weight from now on: a copy in another layout, or, where none is needed, the tensor itself."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, self.rows) if self.is_packed else weight

    @property
    def plain_weight(self) -> torch.Tensor | None:
        """The tensor itself, if no other layout was needed."""
        return None if self.is_packed else self.weight

    def __call__(self, x: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """(n, in) → (n, out). `into`: where to write it; only without a bias."""
        if self.is_packed:
            y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y if into is None else into.copy_(y)
        return linear(x, self.weight, self.bias) if into is None else torch.mm(x, self.weight.T, out=into)


def can_pack(weight: torch.Tensor) -> bool:
    """Whether torch has oneDNN's layouts for a weight of this dtype on this device; its own compiler uses the same
    ones."""
    has_layouts = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return has_layouts and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
