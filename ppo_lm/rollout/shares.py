"""One batch, sampled by all processes."""

from __future__ import annotations

import torch

from ppo_lm.distributed import processes
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings


def sample_shares(
    engine: RolloutEngine,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    settings: SamplingSettings,
    uniforms: torch.Tensor,
    budget: MemoryBudget,
) -> Sampled:
    """`engine.sample`, to which each process gives its share of the prompts. All get the whole. `budget`: the
    engine's."""
    team = processes()
    share = team.share(prompt_mask.sum(dim=1))
    if share.is_whole:
        return engine.sample(prompt_ids, prompt_mask, settings, uniforms)
    own = torch.tensor(share.own, device=prompt_ids.device)
    sampled = team.together(lambda: engine.sample(prompt_ids[own], prompt_mask[own], settings, uniforms[own]))
    budget.agree_on_slots()
    return Sampled(
        team.gather_rows(share, sampled.ids),
        team.gather_rows(share, sampled.logprobs),
        None if sampled.entropies is None else team.gather_rows(share, sampled.entropies),
        None if sampled.support_ids is None else team.gather_rows(share, sampled.support_ids, fill=-1),
    )
