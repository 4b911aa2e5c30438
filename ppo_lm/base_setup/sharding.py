"""A base that is shared out among the processes."""

from __future__ import annotations

import torch

from ppo_lm.config.model_settings import ModelSettings
from ppo_lm.distributed import processes
from ppo_lm.errors import ConfigError, ModelError
from ppo_lm.fast.trial import COARSE_TOLERANCE, TOLERANCE, trial_ids
from ppo_lm.models import BaseModel

TOKENS = 9


def check_can_shard(config: ModelSettings) -> None:
    """Raise `ConfigError` if a base is to be shared out, but there is only this process."""
    if config.shard_base and processes().size == 1:
        raise ConfigError.of(
            "shard_base is set, but this is the only process; start several, with `torchrun --nproc-per-node N -m "
            "ppo_lm ...`, or set shard_base to false"
        )


@torch.no_grad()
def shard_base(base: BaseModel, device: torch.device) -> None:
    """`base.shard`, after which it must give the results that it gave before. Raises `ModelError` if it cannot be
    sharded."""
    ids = trial_ids(base.network, TOKENS)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    expected = base.hidden_states(ids, mask).float()
    base.shard(device)
    found = base.hidden_states(ids.to(device), mask.to(device)).float().to(expected.device)
    tolerance = TOLERANCE if base.dtype.itemsize >= 4 else COARSE_TOLERANCE
    if not (found - expected).norm() <= tolerance * expected.norm():
        raise ModelError(f"model {base.name!r} gives other results when it is sharded; set shard_base to false")
    base.notes.append(f"sharded over {processes().size} processes")
