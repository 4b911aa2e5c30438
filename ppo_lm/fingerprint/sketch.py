"""A short description of a network's weights that changes little when they are rounded otherwise, and much when they
are others: what a hash cannot do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

GROUPS = 32  # numbers in a sketch
PIECE = 2**20  # weights per product


def sketch_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> list[float]:
    """`GROUPS` random projections (Johnson and Lindenstrauss, 1984) of the weights, rounded to bf16: tensor i belongs
    to group i mod `GROUPS`, each of which is divided by its norm."""
    signs = torch.randint(0, 2, (PIECE,), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1).float()
    projections, squares = [0.0] * GROUPS, [0.0] * GROUPS
    for number, (_, weight) in enumerate(weights):
        signs = signs.to(weight.device)
        sums = [_sums(piece.to(torch.bfloat16).float(), signs) for piece in weight.detach().flatten().split(PIECE)]
        for place, (projection, square) in enumerate(torch.stack(sums).tolist()):
            projections[number % GROUPS] += projection * (-1) ** place
            squares[number % GROUPS] += square
    return [p / math.sqrt(s) if s else 0.0 for p, s in zip(projections, squares)]


def sketch_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """About the norm of the difference of two networks' weights, relative to their norm: 0.002 or less if they only
    differ in rounding, √2 if they have nothing in common. Infinite if the sketches cannot be compared."""
    if len(one) != len(other):
        return math.inf
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other)) / len(one))


def _sums(piece: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    return torch.stack([(piece * signs[: len(piece)]).sum(), piece.square().sum()])
