"""Adapters beside the weights: y = [x, x·Aᵀ]·[W, s·B]ᵀ + c, one product in which the adapter's part is added before the
sum is rounded, for layers on the same input. Nothing is copied if the input is written to where it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ppo_lm.fast.adapted_linear import AdaptedLinear, is_coarse
from ppo_lm.fast.packing import round_up

RANK_MULTIPLE = 8  # GPU matrix products are fastest when widths are a multiple of it


def make_room(x: torch.Tensor, layers: Sequence[AdaptedLinear]) -> torch.Tensor | None:
    """New memory (N, I + R) for the input of `layers`, which goes into the first columns, and its products with A; x:
    (N, ·), like the input. None where `adapted_linear.apply` is as fast: the copy of the weights only pays for itself
    with many rows, on a GPU."""
    rank = rank_of(layers)
    if not (x.is_cuda and is_coarse(x.dtype) and rank):
        return None
    inputs = next(layer.a.shape[1] for layer in layers if layer.a is not None)
    return x.new_empty(len(x), inputs + rank) if len(x) >= inputs else None


def apply_in_room(
    room: torch.Tensor, layers: Sequence[AdaptedLinear], residual: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What `adapted_linear.apply` returns, of the input in `room`, plus `residual` (N, O) if there is only one layer.
    The outputs are views of one tensor."""
    weights = [layer.dense(room.dtype) for layer in layers]
    wide, a = put_beside(layers, weights)
    thin = room[:, : a.shape[1]] @ a.T
    room[:, a.shape[1] :] = thin
    y = room @ wide.T if residual is None else torch.addmm(residual, room, wide.T)
    outputs = list(y.split([len(weight) for weight in weights], dim=1))
    for layer, part in zip(layers, outputs):
        if layer.bias is not None:
            part.add_(layer.bias)
    return outputs, thin[:, : sum(len(layer.a) for layer in layers if layer.a is not None)]


def put_beside(
    layers: Sequence[AdaptedLinear],
    weights: Sequence[torch.Tensor],
    wide: torch.Tensor | None = None,
    stacked: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """([W, s·B], A): (out, in + R) and (R, in), where R is `rank_of(layers)`; each layer's B has its own columns. In
    `wide` and `stacked`, which an earlier call returned, or new. `weights`: W of each layer."""
    inputs, rank = weights[0].shape[1], rank_of(layers)
    if wide is None or stacked is None:
        wide = weights[0].new_empty(sum(map(len, weights)), inputs + rank)
        stacked = weights[0].new_zeros(rank, inputs)
        wide[:, inputs:] = 0.0
    place = 0
    for layer, weight, part in zip(layers, weights, wide.split([len(weight) for weight in weights])):
        part[:, :inputs] = weight
        if layer.a is not None and layer.b is not None:
            end = place + len(layer.a)
            stacked[place:end] = layer.a
            torch.mul(layer.b, layer.scale, out=part[:, inputs + place : inputs + end])
            place = end
    return wide, stacked


def rank_of(layers: Sequence[AdaptedLinear]) -> int:
    """The sum of the adapters' ranks, rounded up to a multiple of `RANK_MULTIPLE`."""
    return round_up(sum(len(layer.a) for layer in layers if layer.a is not None), RANK_MULTIPLE)
