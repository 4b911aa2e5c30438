"""Step 1: from prompts to state–action pairs and texts."""

from __future__ import annotations

import torch

from ppo_lm.data import Prompt
from ppo_lm.data.encoding import encode_prompt, pad
from ppo_lm.errors import ConfigError
from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches
from ppo_lm.models import PolicyModel, SFTModel
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.ppo_trainer.inputs import check_lengths, check_prompts
from ppo_lm.rollout import RolloutEngine, Sampled, SamplingSettings, pick_engine
from ppo_lm.token_attribution import build_sa_pairs, extract_actions
from ppo_lm.tracking import PhaseClock
from ppo_lm.types import SAPairs


class SequenceGenerator:
    """Samples responses, and records the policy's and the reference's log-probability of every action.

    The old log-probabilities are those of sampling itself, or, with `recompute`, those of the training path. In fp32
    both agree to 1e-4; in bf16 they round differently, by about 0.03 nats per token (the metric `sampler_gap`).
    """

    def __init__(
        self,
        policy: PolicyModel,
        sft: SFTModel,
        sampling: SamplingSettings,
        budget: MemoryBudget | None = None,
        seed: int = 0,
        engine: RolloutEngine | None = None,
        recompute: bool = False,
        clock: PhaseClock | None = None,
    ):
        self.policy, self.sft, self.sampling, self.budget = policy, sft, sampling, budget or MemoryBudget()
        self.engine = engine or pick_engine(policy, self.budget)
        self.recompute = recompute
        self.random = torch.Generator().manual_seed(seed)
        self.clock = clock or PhaseClock(policy.base.device)

    def generate_sequences(self, prompts: list[Prompt], weights_changed: bool = True) -> tuple[SAPairs, list[str]]:
        """Sample one response per prompt. Returns the pairs, with `old_logprobs`, `sampler_logprobs`, `entropies` and
        `ref_logprobs`, and the B texts without EOS. `weights_changed`: whether the policy may have changed since the
        last call, so that the engine must be given its weights."""
        base = self.policy.base
        prompt_ids, prompt_mask = pad(self._encode(prompts), base.pad_token_id, side="left", device=base.device)
        if weights_changed:
            self.engine.update_weights(self.policy)
        sampled = self.engine.sample(prompt_ids, prompt_mask, self.sampling, self.random)
        self._check_support(sampled)
        action_ids, action_mask, terminated = extract_actions(sampled.ids, base.eos_token_ids, base.pad_token_id)
        pairs = build_sa_pairs(
            prompt_ids, prompt_mask, action_ids, action_mask, terminated, sampled.logprobs, sampled.support_ids
        )
        self.clock.lap("sampling")
        pairs = self._describe_policy(pairs.with_columns(sampler_logprobs=pairs.old_logprobs), sampled.entropies)
        pairs = pairs.with_columns(ref_logprobs=self._logprobs(self.sft, pairs))
        return pairs, [
            base.tokenizer.decode(ids[mask], skip_special_tokens=True) for ids, mask in zip(action_ids, action_mask)
        ]

    def _describe_policy(self, pairs: SAPairs, entropies: torch.Tensor | None) -> SAPairs:
        """Add `entropies`, those of the engine if it has them, and with `recompute` replace `old_logprobs`; in one
        scoring pass where both are to be computed."""
        if entropies is not None:
            pairs = pairs.with_columns(entropies=torch.where(pairs.action_mask, entropies, 0.0))
            return pairs.with_columns(old_logprobs=self._logprobs(self.policy, pairs)) if self.recompute else pairs
        logprobs, entropies = compute_in_micro_batches(pairs, self.budget, self._logprobs_and_entropies)
        pairs = pairs.with_columns(entropies=entropies if self.sampling.temperature else torch.zeros_like(entropies))
        return pairs.with_columns(old_logprobs=logprobs) if self.recompute else pairs

    def _logprobs(self, model: PolicyModel | SFTModel, pairs: SAPairs) -> torch.Tensor:
        temperature = self._scoring_temperature
        return compute_in_micro_batches(pairs, self.budget, lambda part: model.action_logprobs(part, temperature))

    def _logprobs_and_entropies(self, part: SAPairs) -> torch.Tensor:
        states = states_before_actions(self.policy.base, self.policy.role, part)
        return self.policy.logprobs_at(states, part, self._scoring_temperature, entropy=True)

    @property
    def _scoring_temperature(self) -> float:
        return self.sampling.temperature or 1.0  # greedy samples are scored at temperature 1

    def _check_support(self, sampled: Sampled) -> None:
        """Raise `ConfigError` if the engine cut the vocabulary without saying where: nothing else could be scored under
        the distribution that was sampled from."""
        vocabulary = self.policy.base.network.config.get_text_config().vocab_size
        if sampled.support_ids is None and self.sampling.truncates(vocabulary):
            raise ConfigError.of(
                f"top_k is {self.sampling.top_k} and top_p is {self.sampling.top_p}, but the engine "
                f"{type(self.engine).__name__} does not say which tokens they leave to sample from; set top_k to 0 and "
                "top_p to 1"
            )

    def _encode(self, prompts: list[Prompt]) -> list[list[int]]:
        check_prompts(prompts)
        encoded = [encode_prompt(self.policy.base.tokenizer, prompt) for prompt in prompts]
        check_lengths(encoded, self.sampling.max_new_tokens, self.policy.base.context_length)
        return encoded
