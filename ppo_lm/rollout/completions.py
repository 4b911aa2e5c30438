"""Completions as texts, for evaluation."""

from __future__ import annotations

import torch

from ppo_lm.data.encoding import decode_completions, encode_for, pad
from ppo_lm.data.examples import Prompt
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel
from ppo_lm.rollout.engine import SamplingSettings
from ppo_lm.rollout.pick import pick_engine
from ppo_lm.token_attribution import extract_actions


def write_completions(
    policy: PolicyModel,
    prompts: list[Prompt],
    sampling: SamplingSettings,
    batch_size: int = 32,
    seed: int = 0,
    budget: MemoryBudget | None = None,
) -> list[str]:
    """One completion per prompt, in order, cut at its first EOS and decoded without special tokens. `budget`: what fits
    in memory, learnt by earlier calls."""
    base, engine, texts = policy.base, pick_engine(policy, budget), []
    engine.update_weights(policy)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(prompts), batch_size):
        encoded = [encode_for(base, prompt) for prompt in prompts[start : start + batch_size]]
        sampled = engine.sample(*pad(encoded, base.pad_token_id, side="left", device=base.device), sampling, generator)
        action_ids, action_mask, _ = extract_actions(sampled.ids, base.eos_token_ids, base.pad_token_id)
        texts += decode_completions(base.tokenizer, action_ids, action_mask)
    return texts
