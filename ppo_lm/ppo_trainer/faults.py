"""Finding NaN and infinity before they reach a weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ppo_lm.distributed import processes
from ppo_lm.distributed.slices import own_slice
from ppo_lm.errors import NumericalFault
from ppo_lm.types import SAPairs

COLUMNS = ("old_logprobs", "ref_logprobs", "scores", "rewards", "values", "advantages", "reward_to_go", "returns")


def check_pairs(sa_pairs: SAPairs) -> None:
    """Raise `NumericalFault` for the first column of a batch, in order of computation, that is not finite."""
    columns = {name: column for name in COLUMNS if (column := getattr(sa_pairs, name)) is not None}
    finite = torch.stack([column.isfinite().all() for column in columns.values()]).tolist()
    for (name, column), good in zip(columns.items(), finite):
        if not good:
            rows = (~column.isfinite()).view(sa_pairs.sequences, -1).any(dim=1)
            fault = NumericalFault(f"{name} is NaN or infinite in {int(rows.sum())} of {len(rows)} responses")
            fault.batch = sa_pairs
            raise fault


def all_finite(weights: Iterable[torch.Tensor]) -> bool:
    """Whether all weights are finite, in every process, each of which may hold only a slice of one."""
    finite = [own_slice(weight.detach()).isfinite().all() for weight in weights]
    broken = bool(finite) and not all(torch.stack(finite).tolist())
    return not processes().highest(int(broken))
