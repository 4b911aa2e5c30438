"""Several linear layers on the same input as one, for sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ppo_lm.fast.adapted_linear import AdaptedLinear
from ppo_lm.fast.packed_linear import PackedLinear
from ppo_lm.fast.packing import round_up

RANK_MULTIPLE = 8  # GPU matrix products are fastest when widths are a multiple of it


class FusedLinear:
    """y = x·(W + s·B·A)ᵀ + c of every layer, side by side, with the weights at the time of creation.

    Merged, W + s·B·A is one matrix. That rounds small adapters away where the dtype is coarse (`adapted_linear`); there
    it should be unmerged: y = [x, x·Aᵀ]·[W, s·B]ᵀ + c, in which the adapter's part is added before the sum is rounded.
    """

    def __init__(self, layers: Sequence[AdaptedLinear], rows: int, merged: bool):
        """`rows`: as in `PackedLinear`."""
        merged = merged or all(layer.a is None for layer in layers)
        weight, a = (_merge(layers), None) if merged else _put_beside(layers)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self._a = None if a is None else PackedLinear(a, None, rows)
        self._linear = PackedLinear(weight, torch.cat(biases) if biases else None, rows)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in) → (n, out of all layers)."""
        return self._linear(x if self._a is None else torch.cat([x, self._a(x)], dim=1))


def _merge(layers: Sequence[AdaptedLinear]) -> torch.Tensor:
    """W + s·B·A of all layers, (out, in)."""
    outputs = [len(layer.weight) for layer in layers]
    merged = layers[0].weight.new_empty(sum(outputs), layers[0].weight.shape[1])
    for layer, part in zip(layers, merged.split(outputs)):
        if layer.a is None or layer.b is None:
            part.copy_(layer.weight)
        else:
            torch.addmm(layer.weight, layer.b.to(part.dtype), layer.a.to(part.dtype), alpha=layer.scale, out=part)
    return merged


def _put_beside(layers: Sequence[AdaptedLinear]) -> tuple[torch.Tensor, torch.Tensor]:
    """([W, s·B], A): (out, in + R) and (R, in), where R is the sum of the adapters' ranks; each layer's B has its own
    columns."""
    weight = layers[0].weight
    outputs, inputs = [len(layer.weight) for layer in layers], weight.shape[1]
    rank = round_up(sum(len(layer.a) for layer in layers if layer.a is not None), RANK_MULTIPLE)
    wide, stacked, place = weight.new_empty(sum(outputs), inputs + rank), weight.new_zeros(rank, inputs), 0
    wide[:, inputs:] = 0.0
    for layer, part in zip(layers, wide.split(outputs)):
        part[:, :inputs] = layer.weight
        if layer.a is not None and layer.b is not None:
            end = place + len(layer.a)
            stacked[place:end] = layer.a
            part[:, inputs + place : inputs + end] = layer.b * layer.scale
            place = end
    return wide, stacked
