"""A sampling engine on transformers' `generate`, which leaves the entropies to a scoring pass.

ppo-lm train --model_name embedded --prompts embedded --top_k 0 --top_p 1 --engine examples/own_engine.py:Generate
"""

from __future__ import annotations

import torch

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel
from ppo_lm.rollout import RolloutEngine, Sampled, seed_of


class Generate(RolloutEngine):
    """Reads the policy's own weights in every `sample`, so it inherits an `update_weights` that does nothing."""

    def __init__(self, policy: PolicyModel, budget: MemoryBudget):
        self.policy = policy

    def sample(self, prompt_ids, prompt_mask, settings, uniforms) -> Sampled:
        base, seed = self.policy.base, seed_of(uniforms)
        with base.role(self.policy.role), torch.random.fork_rng():
            torch.manual_seed(seed)
            made = base.network.generate(
                prompt_ids,
                attention_mask=prompt_mask,
                max_new_tokens=settings.max_new_tokens,
                do_sample=settings.temperature > 0,
                temperature=settings.temperature or 1.0,
                top_k=0,
                eos_token_id=base.eos_token_ids,
                pad_token_id=base.pad_token_id,
                output_scores=True,
                return_dict_in_generate=True,
            )
        ids = made.sequences[:, prompt_ids.shape[1] :]
        logprobs = torch.stack(made.scores, dim=1).float().log_softmax(dim=2)
        return Sampled(ids, logprobs.gather(2, ids[:, :, None])[:, :, 0])
