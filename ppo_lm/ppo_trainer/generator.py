"""Step 1: from prompts to state–action pairs and texts."""

from __future__ import annotations

import torch

from ppo_lm.data import Prompt
from ppo_lm.data.encoding import encode_prompt, pad
from ppo_lm.experience_buffer import TokenBudget, compute_in_micro_batches
from ppo_lm.models import PolicyModel, SFTModel
from ppo_lm.ppo_trainer.inputs import check_lengths, check_prompts
from ppo_lm.rollout import RolloutEngine, SamplingSettings, pick_engine
from ppo_lm.token_attribution import build_sa_pairs, extract_actions
from ppo_lm.tracking import PhaseClock
from ppo_lm.types import SAPairs


class SequenceGenerator:
    """Samples responses, and records the policy's and the reference's log-probability of every action.

    The old log-probabilities are those of sampling itself, or, with `recompute`, those of the training path. In fp32
    both are the same to 1e-4; in bf16 they round differently, by some 0.03 nats a token (the metric `sampler_gap`).
    """

    def __init__(
        self,
        policy: PolicyModel,
        sft: SFTModel,
        sampling: SamplingSettings,
        micro_batch_tokens: int = 1024,
        seed: int = 0,
        engine: RolloutEngine | None = None,
        recompute: bool = False,
        clock: PhaseClock | None = None,
    ):
        self.policy, self.sft, self.sampling, self.budget = policy, sft, sampling, TokenBudget(micro_batch_tokens)
        self.engine = engine or pick_engine(policy)
        self.recompute = recompute
        self.random = torch.Generator(policy.base.device).manual_seed(seed)
        self.clock = clock or PhaseClock(policy.base.device)

    def generate_sequences(self, prompts: list[Prompt]) -> tuple[SAPairs, list[str]]:
        """Sample one response a prompt. Returns the pairs, with `old_logprobs`, `sampler_logprobs`, `entropies` and
        `ref_logprobs`, and the B texts without EOS."""
        base = self.policy.base
        prompt_ids, prompt_mask = pad(self._encode(prompts), base.pad_token_id, side="left", device=base.device)
        sampled = self.engine.sample(prompt_ids, prompt_mask, self.sampling, self.random)
        action_ids, action_mask, terminated = extract_actions(sampled.ids, base.eos_token_ids, base.pad_token_id)
        pairs = build_sa_pairs(
            prompt_ids, prompt_mask, action_ids, action_mask, terminated, sampled.logprobs, sampled.support_ids
        )
        self.clock.lap("sampling")
        pairs = pairs.with_columns(
            sampler_logprobs=pairs.old_logprobs, entropies=torch.where(action_mask, sampled.entropies, 0.0)
        )
        if self.recompute:
            pairs = pairs.with_columns(old_logprobs=self._logprobs(self.policy, pairs))
        pairs = pairs.with_columns(ref_logprobs=self._logprobs(self.sft, pairs))
        return pairs, [
            base.tokenizer.decode(ids[mask], skip_special_tokens=True) for ids, mask in zip(action_ids, action_mask)
        ]

    def _logprobs(self, model: PolicyModel | SFTModel, pairs: SAPairs) -> torch.Tensor:
        temperature = self.sampling.temperature or 1.0  # greedy samples are scored at temperature 1
        return compute_in_micro_batches(pairs, self.budget, lambda part: model.action_logprobs(part, temperature))

    def _encode(self, prompts: list[Prompt]) -> list[list[int]]:
        check_prompts(prompts)
        encoded = [encode_prompt(self.policy.base.tokenizer, prompt) for prompt in prompts]
        check_lengths(encoded, self.sampling.max_new_tokens, self.policy.base.context_length)
        return encoded
