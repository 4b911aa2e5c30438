"""NaN and infinity, found before they reach a weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ppo_lm.errors import NumericalFault
from ppo_lm.types import SAPairs

COLUMNS = (
    "old_logprobs",
    "ref_logprobs",
    "scores",
    "rewards",
    "values",
    "advantages",
    "reward_to_go",
    "returns",
)  # in the order they are computed in


def check_pairs(sa_pairs: SAPairs) -> None:
    """Raise `NumericalFault` for the first of a batch's columns that is not finite."""
    finite = torch.stack([sa_pairs.require(name).isfinite().all() for name in COLUMNS]).tolist()
    for name, good in zip(COLUMNS, finite):
        if not good:
            rows = (~sa_pairs.require(name).isfinite()).view(sa_pairs.sequences, -1).any(dim=1)
            fault = NumericalFault(f"{name} is NaN or infinite in {int(rows.sum())} of {len(rows)} responses")
            fault.batch = sa_pairs
            raise fault


def all_finite(weights: Iterable[torch.Tensor]) -> bool:
    """Whether no weight is NaN or infinite."""
    return all(torch.stack([weight.detach().isfinite().all() for weight in weights]).tolist())
