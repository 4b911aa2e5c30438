"""Several rewards, one score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch

from ppo_lm.errors import RewardError


def combine(
    components: torch.Tensor, weights: Sequence[float] | None = None, *, clip: float = 0.0, normalise: bool = False
) -> torch.Tensor:
    """Σ weight · component, (K, B) → (B,) fp32; NaN is "no opinion" and adds nothing.

    Each component is first shifted and scaled to mean 0 and variance 1 over its opinions in the batch (`normalise`),
    then cut to ± `clip` (0: not). Raises `RewardError` for a completion that no reward has an opinion on.
    """
    silent = components.isnan().all(dim=0)
    if silent.any():
        raise RewardError(
            f"no reward has an opinion (all returned None) on completion {int(silent.nonzero()[0])} of "
            f"{components.shape[1]}; one must score it"
        )
    if normalise:
        components = torch.stack([_normalise(row) for row in components])
    if clip > 0:
        components = components.clamp(-clip, clip)
    weights = torch.ones(len(components)) if weights is None else torch.tensor(weights)
    return (components * weights.to(components)[:, None]).nansum(dim=0)


def _normalise(row: torch.Tensor) -> torch.Tensor:
    known = row[~row.isnan()]
    spread = known.std(correction=0) if len(known) else row.new_zeros(())
    return (row - known.mean()) / spread if spread > 0 else torch.where(row.isnan(), row, 0.0)


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with _2, _3, … behind those that came before."""
    found: list[str] = []
    for name in names:
        candidates = (name if number == 1 else f"{name}_{number}" for number in count(1))
        found.append(next(candidate for candidate in candidates if candidate not in found))
    return found
