"""Several linear layers on the same input as one, for sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ppo_lm.fast.adapted_linear import AdaptedLinear
from ppo_lm.fast.beside import put_beside, rank_of
from ppo_lm.fast.packed_linear import PackedLinear
from ppo_lm.kernels.cpu import PackedLayers


class FusedLinear:
    """y = x·(W + s·B·A)ᵀ + c of every layer, side by side, with the weights at the time of the last `load`.

    Merged, W + s·B·A is one matrix. That rounds small adapters away where the dtype is coarse (`adapted_linear`); there
    it should be unmerged, with the adapters beside the weights (`beside`).
    """

    def __init__(self, layers: Sequence[AdaptedLinear], rows: int, merged: bool):
        """`rows`: as in `PackedLinear`."""
        self._layers, self._merged = layers, merged or all(layer.a is None for layer in layers)
        self._inputs = _weights(layers)[0].shape[1]
        weight, a, bias = self._gather()
        self._linear = PackedLinear(weight, bias, rows)
        self._a = None if a is None else PackedLinear(a, None, rows)

    def load(self) -> None:
        """Take the layers' current weights. On a GPU they are written to where the old ones were, as a CUDA graph
        requires."""
        weight, a, bias = self._gather(self._linear.plain_weight, self._a and self._a.plain_weight)
        self._linear.load(weight)
        if self._a is not None and a is not None:
            self._a.load(a)
        if self._linear.bias is not None and bias is not None:
            self._linear.bias.copy_(bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in) → (n, out of all layers)."""
        return self._linear(x if self._a is None else torch.cat([x, self._a(x)], dim=1))

    def make_room(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New memory for `apply_in_room`, and the part of it, (n, in), that must hold the input; x: (n, ·), like the
        input."""
        room = x.new_empty(len(x), self._inputs if self._merged else self._inputs + rank_of(self._layers))
        return room, room[:, : self._inputs]

    def apply_in_room(self, room: torch.Tensor) -> torch.Tensor:
        """What a call returns, of the input in memory that `make_room` returned; it is not copied."""
        if self._a is not None:
            self._a(room[:, : self._inputs], into=room[:, self._inputs :])
        return self._linear(room)

    @property
    def packed(self) -> PackedLayers | None:
        """What kernels read that run whole layers; None unless the weights are laid out for our products."""
        weight, a = self._linear.packed, self._a and self._a.packed
        return None if weight is None else PackedLayers(weight, a, self._linear.bias)

    def _gather(
        self, weight: torch.Tensor | None = None, a: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The whole weight, A unless merged, and the bias, if any: in `weight` and `a`, or new."""
        biases = [layer.bias for layer in self._layers if layer.bias is not None]
        bias = torch.cat(biases) if biases else None
        if self._merged:
            return _merge(self._layers, weight), None, bias
        return *put_beside(self._layers, _weights(self._layers), weight, a), bias


def _merge(layers: Sequence[AdaptedLinear], into: torch.Tensor | None) -> torch.Tensor:
    """W + s·B·A of all layers, (out, in)."""
    weights = _weights(layers)
    outputs = [len(weight) for weight in weights]
    merged = weights[0].new_empty(sum(outputs), weights[0].shape[1]) if into is None else into
    for layer, weight, part in zip(layers, weights, merged.split(outputs)):
        if layer.a is None or layer.b is None:
            part.copy_(weight)
        else:
            torch.addmm(weight, layer.b.to(part.dtype), layer.a.to(part.dtype), alpha=layer.scale, out=part)
    return merged


def _weights(layers: Sequence[AdaptedLinear]) -> list[torch.Tensor]:
    """Of layers that hold them: no decoder is made of others."""
    return [layer.weight for layer in layers if layer.weight is not None]
