"""Sampling through transformers' own forward pass and cache: every causal language model, one token of every row at a
time."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from ppo_lm.models import PolicyModel
from ppo_lm.ops import position_ids
from ppo_lm.rollout.engine import Sampled, SamplingSettings
from ppo_lm.rollout.sampling import draw_uniforms, sample_tokens


class PlainEngine:
    """Samples from a `PolicyModel` in process. Only the last position's logits ever exist: (B, V)."""

    def __init__(self, policy: PolicyModel):
        self.policy = policy

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        generator: torch.Generator,
    ) -> Sampled:
        """See `RolloutEngine.sample`. Stops as soon as every row has ended."""
        base = self.policy.base
        eos = torch.tensor(base.eos_token_ids, device=base.device)
        rows, width = prompt_ids.shape
        uniforms = draw_uniforms(rows, settings, generator)
        mask = torch.cat([prompt_mask, prompt_mask.new_ones(rows, settings.max_new_tokens)], dim=1)
        positions = position_ids(mask)
        decoder, cache = base.network.get_decoder(), DynamicCache(config=base.network.config)
        step_ids, start = prompt_ids, 0
        ended = torch.zeros(rows, dtype=torch.bool, device=base.device)
        steps = []
        with base.role(self.policy.role):
            for end in range(width, width + settings.max_new_tokens):
                output = decoder(
                    input_ids=step_ids,
                    attention_mask=mask[:, :end],
                    position_ids=positions[:, start:end],
                    past_key_values=cache,
                    use_cache=True,
                )
                steps.append(
                    sample_tokens(base.logits(output.last_hidden_state[:, -1]), settings, uniforms[:, end - width])
                )
                token = steps[-1].ids
                ended |= torch.isin(token, eos)
                if bool(ended.all()):
                    break
                step_ids, start = token[:, None], end
        return Sampled(*(None if column[0] is None else torch.stack(column, dim=1) for column in zip(*steps)))
