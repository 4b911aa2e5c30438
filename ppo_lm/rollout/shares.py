"""One batch, sampled by all processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import torch

from ppo_lm.distributed import processes
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings


def start_sampling(
    engine: RolloutEngine,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    settings: SamplingSettings,
    uniforms: torch.Tensor,
    budget: MemoryBudget,
    executor: Executor | None = None,
) -> Callable[[], Sampled]:
    """Begin `engine.sample`, to which each process gives its share of the prompts; with an `executor`, there. Returns a
    function that waits for all shares, and returns the whole. `budget`: the engine's."""
    team = processes()
    share = team.share(prompt_mask.sum(dim=1))
    own = (prompt_ids, prompt_mask, settings, uniforms)
    if not share.is_whole:
        rows = torch.tensor(share.own, device=prompt_ids.device)
        own = (prompt_ids[rows], prompt_mask[rows], settings, uniforms[rows])
    if executor is None:
        sample = partial(engine.sample, *own)
    else:
        sample = executor.submit(engine.snapshot().sample, *own).result

    def finish() -> Sampled:
        sampled = processes().together(sample, in_step=budget.in_step and not engine.is_remote)
        budget.agree_on_slots()
        return sampled.of_all(share)

    return finish
