"""Sums of matrix products, which autograd does not see: by one kernel of ours where it is faster than torch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ppo_lm import kernels

Pair = tuple[torch.Tensor, torch.Tensor]


def sum_products(products: Sequence[Pair], add: torch.Tensor | None = None) -> torch.Tensor:
    """Σ a·b + add: (M, K), (K, N) of each pair, whose K may differ, and (M, N) or (N,) → (M, N). The kernel rounds the
    whole sum once. Torch's operations round after each product, so that the smallest should come first."""
    (a, b), *others = products
    own = kernels.find_products(*(matrix for pair in products for matrix in pair))
    if own and (add is None or (add.stride(-1) == 1 and add.dtype == a.dtype)):
        return own.sum_products(products, add)
    found = a @ b
    for a, b in others:
        found.addmm_(a, b)
    return found if add is None else found.add_(add)


def has_own_products(x: torch.Tensor) -> bool:
    """Whether products with x are ours."""
    return kernels.find_products(x) is not None
