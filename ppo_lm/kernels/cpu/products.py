"""Sums of matrix products. Autograd does not see them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from ppo_lm.kernels.cpu.build import load_library
from ppo_lm.kernels.cpu.calls import Place, Product, kernel

PANEL = 48  # columns that are laid out together, at most; a multiple of those of any processor
WORD = 2  # numbers, at most


@functools.cache
def products_are_ahead(dtype: torch.dtype) -> bool:
    """Whether they are faster than torch's on this processor."""
    return bool(load_library(dtype).products_are_ahead())


class Packed:
    """b (K, N) of a product as the kernel reads it: a copy in another layout, for a matrix that is used again."""

    def __init__(self, b: torch.Tensor):
        self.inner, self.columns = b.shape
        columns, inner = (-(-size // unit) * unit for size, unit in ((self.columns, PANEL), (self.inner, WORD)))
        self._words = b.new_empty(columns * inner)
        self.load(b)

    def load(self, b: torch.Tensor) -> None:
        """Take another matrix of this size, in the same place."""
        kernel("pack", b.dtype)(Place.of(b), self.inner, self.columns, self.data_ptr())

    def data_ptr(self) -> int:
        return self._words.data_ptr()


def sum_products(
    products: Sequence[tuple[torch.Tensor, torch.Tensor | Packed]],
    add: torch.Tensor | None = None,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `ops.products.sum_products`."""
    first, b = products[0]
    rows, columns = first.shape[0], b.columns if isinstance(b, Packed) else b.shape[1]
    out = first.new_empty(rows, columns) if into is None else into
    each = (Product * len(products))(*(_describe(*pair) for pair in products))
    added = (None, 0) if add is None else (add.data_ptr(), add.stride(0) if add.ndim == 2 else 0)
    kernel("sum_products", first.dtype)(each, len(products), *added, out.data_ptr(), out.stride(0), rows, columns)
    return out


def _describe(a: torch.Tensor, b: torch.Tensor | Packed) -> tuple[int, ...]:
    """The fields of a `Product`."""
    if isinstance(b, Packed):
        return a.data_ptr(), *a.stride(), b.data_ptr(), 0, 0, b.inner, 1
    return a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), b.shape[0], 0
