"""Step 1: from prompts to state–action pairs and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from ppo_lm.data import Prompt
from ppo_lm.data.encoding import decode_completions, pad
from ppo_lm.data.fitting import encode_prompts
from ppo_lm.experience_buffer import TokenBudget, compute_in_micro_batches
from ppo_lm.models import PolicyModel
from ppo_lm.rollout import RolloutEngine, SamplingSettings, pick_engine
from ppo_lm.token_attribution import build_sa_pairs, extract_actions
from ppo_lm.tracking import PhaseClock
from ppo_lm.types import SAPairs


class Reference(Protocol):
    """What the policy's log-probabilities are compared with: the SFT model, or another policy."""

    def action_logprobs(self, sa_pairs: SAPairs, temperature: float = 1.0) -> torch.Tensor:
        """log π_ref(a|s) of every pair, (B, A) fp32, 0 where masked."""
        ...


class SequenceGenerator:
    """Samples responses, and records the policy's and the reference's log-probability of every action.

    The old log-probabilities are those of sampling itself, or, with `recompute`, those of the training path. In fp32
    both are the same to 1e-4; in bf16 they round differently, by some 0.03 nats a token (the metric `sampler_gap`).
    """

    def __init__(
        self,
        policy: PolicyModel,
        reference: Reference,
        sampling: SamplingSettings,
        micro_batch_tokens: int = 1024,
        seed: int = 0,
        engine: RolloutEngine | None = None,
        recompute: bool = False,
        clock: PhaseClock | None = None,
    ):
        self.policy, self.reference, self.sampling = policy, reference, sampling
        self.budget = TokenBudget(micro_batch_tokens)
        self.engine = engine or pick_engine(policy)
        self.recompute = recompute
        self.random = torch.Generator(policy.base.device).manual_seed(seed)
        self.clock = clock or PhaseClock(policy.base.device)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's."""
        return self.policy.base.tokenizer

    def generate_sequences(self, prompts: Sequence[Prompt]) -> tuple[SAPairs, list[str]]:
        """Sample one response to each prompt: texts and conversations, which are encoded here, or token ids, which are
        taken as they are. Returns the pairs, with `old_logprobs`, `sampler_logprobs`, `entropies` and `ref_logprobs`,
        and the B texts without EOS. Raises `DataError` for a prompt that is empty or too long."""
        base = self.policy.base
        encoded = encode_prompts(prompts, base, self.sampling.max_new_tokens)
        prompt_ids, prompt_mask = pad(encoded, base.pad_token_id, side="left", device=base.device)
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
        pairs = pairs.with_columns(ref_logprobs=self._logprobs(self.reference, pairs))
        return pairs, decode_completions(self.tokenizer, action_ids, action_mask)

    def _logprobs(self, model: Reference, pairs: SAPairs) -> torch.Tensor:
        temperature = self.sampling.temperature or 1.0  # greedy samples are scored at temperature 1
        return compute_in_micro_batches(pairs, self.budget, lambda part: model.action_logprobs(part, temperature))
