"""Step 1: from prompts to state–action pairs and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from ppo_lm.data import Prompt
from ppo_lm.data.encoding import pad
from ppo_lm.data.fitting import encode_prompts
from ppo_lm.errors import ConfigError
from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches
from ppo_lm.models import PolicyModel
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.ppo_trainer.ahead import Rollout, RolloutsAhead
from ppo_lm.progress import phase
from ppo_lm.rollout import (
    Completions,
    RolloutEngine,
    Sampled,
    SamplingSettings,
    StopStrings,
    draw_uniforms,
    find_excluded,
    pick_engine,
    read_completions,
    start_sampling,
)
from ppo_lm.token_attribution import build_sa_pairs
from ppo_lm.tracking import PhaseClock
from ppo_lm.types import SAPairs

NOTHING: tuple[Iterator[Sequence[Prompt]], int] = (iter(()), 0)


class Reference(Protocol):
    """What the policy's log-probabilities are compared with: the SFT model or another policy."""

    def action_logprobs(self, sa_pairs: SAPairs, temperature: float = 1.0) -> torch.Tensor:
        """log π_ref(a|s) of every pair, (B, A) fp32, 0 where masked."""
        ...


class SequenceGenerator:
    """Samples responses, and records the policy's and the reference's log-probability of every action.

    The old log-probabilities are those computed while sampling or, with `recompute`, those of the training path. In
    fp32 both agree to 1e-4; in bf16 they round differently, by about 0.03 nats per token (the metric `sampler_gap`).
    """

    def __init__(
        self,
        policy: PolicyModel,
        reference: Reference,
        sampling: SamplingSettings,
        budget: MemoryBudget | None = None,
        seed: int = 0,
        engine: RolloutEngine | None = None,
        recompute: bool = False,
        clock: PhaseClock | None = None,
    ):
        self.policy, self.reference, self.sampling = policy, reference, sampling
        self.stops = StopStrings(policy.base.tokenizer, sampling)
        self.budget = budget or MemoryBudget()
        self.engine = engine or pick_engine(policy, self.budget)
        self.recompute = recompute
        self.random = torch.Generator().manual_seed(seed)
        self.ahead = RolloutsAhead(policy.base.device)
        self._later = NOTHING
        self._thread = cache(lambda: ThreadPoolExecutor(1, "sampling ahead"))
        self.clock = clock or PhaseClock(policy.base.device)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer."""
        return self.policy.base.tokenizer

    def generate_sequences(
        self, prompts: Sequence[Prompt], weights_changed: bool = True, with_reference: bool = True
    ) -> tuple[SAPairs, list[str]]:
        """Sample one response to each prompt. Texts and conversations are encoded here; token ids are taken as they
        are. Returns the pairs, with `old_logprobs`, `sampler_logprobs`, `entropies` and, `with_reference`,
        `ref_logprobs`, and the B texts without EOS, cut before a stop string. `weights_changed`: whether the policy may
        have changed since the last call, so that the engine needs its new weights. Raises `DataError` for a prompt that
        is empty or too long."""
        base = self.policy.base
        encoded = encode_prompts(prompts, base, self.sampling.max_new_tokens)
        self._sample_ahead()
        rollout = self.ahead.take(encoded) or self._begin(encoded, weights_changed)()
        prompt_ids, prompt_mask, sampled = rollout.prompt_ids, rollout.prompt_mask, rollout.sampled
        self._check_support(sampled)
        completions = read_completions(sampled, base, self.stops)
        pairs = build_sa_pairs(
            prompt_ids,
            prompt_mask,
            completions.ids,
            completions.mask,
            completions.terminated,
            sampled.logprobs,
            sampled.support_ids,
        )
        pairs = pairs.with_columns(stopped=completions.stopped, excluded_ids=self._find_excluded(sampled, completions))
        self.clock.lap("sampling")
        with phase("scoring"):
            pairs = self._describe_policy(pairs.with_columns(sampler_logprobs=pairs.old_logprobs), sampled.entropies)
            if with_reference:
                pairs = pairs.with_columns(ref_logprobs=self._logprobs(self.reference, pairs))
        return pairs, completions.texts

    @contextmanager
    def looking_ahead(self, batches: Iterator[Sequence[Prompt]], most: int) -> Iterator[None]:
        """Inside the block, `generate_sequences` is called with these batches of prompts in turn, after those that are
        sampled already, and samples up to `most` batches after its own too, with the policy of that time: at once, or
        meanwhile with an engine that is elsewhere."""
        self._later = batches if most else iter(()), most
        try:
            yield
        finally:
            self._later = NOTHING
            self.ahead.clear()

    def _sample_ahead(self) -> None:
        later, most = self._later
        for prompts in islice(later, most + 1 - len(self.ahead)):
            encoded = encode_prompts(prompts, self.policy.base, self.sampling.max_new_tokens)
            self.ahead.add(self._begin(encoded, executor=self._thread() if self.engine.is_remote else None))
            if not self.engine.is_remote:
                self.ahead.wait()

    def _begin(
        self, encoded: Sequence[Sequence[int]], weights_changed: bool = True, executor: Executor | None = None
    ) -> Callable[[], Rollout]:
        base = self.policy.base
        prompt_ids, prompt_mask = pad(encoded, base.pad_token_id, side="left", device=base.device)
        if weights_changed:
            self.engine.update_weights(self.policy)
        uniforms = draw_uniforms(len(prompt_ids), self.sampling, self.random, base.device)
        finish = start_sampling(self.engine, prompt_ids, prompt_mask, self.sampling, uniforms, self.budget, executor)
        return lambda: Rollout(prompt_ids, prompt_mask, finish())

    def _describe_policy(self, pairs: SAPairs, entropies: torch.Tensor | None) -> SAPairs:
        """Add `entropies`, the engine's if it reports them, and with `recompute` replace `old_logprobs`; if both have
        to be computed, in a single scoring pass."""
        if entropies is not None:
            pairs = pairs.with_columns(entropies=torch.where(pairs.action_mask, entropies, 0.0))
            return pairs.with_columns(old_logprobs=self._logprobs(self.policy, pairs)) if self.recompute else pairs
        logprobs, entropies = compute_in_micro_batches(pairs, self.budget, self._logprobs_and_entropies)
        pairs = pairs.with_columns(entropies=entropies if self.sampling.temperature else torch.zeros_like(entropies))
        return pairs.with_columns(old_logprobs=logprobs) if self.recompute else pairs

    def _logprobs(self, model: Reference, pairs: SAPairs) -> torch.Tensor:
        temperature = self._scoring_temperature
        return compute_in_micro_batches(pairs, self.budget, lambda part: model.action_logprobs(part, temperature))

    def _logprobs_and_entropies(self, part: SAPairs) -> torch.Tensor:
        states = states_before_actions(self.policy.base, self.policy.role, part)
        return self.policy.logprobs_at(states, part, self._scoring_temperature, entropy=True)

    @property
    def _scoring_temperature(self) -> float:
        return self.sampling.temperature or 1.0  # greedy samples are scored at temperature 1

    def _find_excluded(self, sampled: Sampled, completions: Completions) -> torch.Tensor | None:
        """The tokens that `min_new_tokens` excluded from each distribution, (B, A, E), unless the support lacks them.
        Raises `ConfigError` if the engine sampled one of them."""
        end_ids = torch.tensor(self.policy.base.eos_token_ids, device=sampled.ids.device)
        excluded = find_excluded(self.sampling, end_ids, torch.arange(sampled.ids.shape[1], device=sampled.ids.device))
        if excluded is None:
            return None
        ended = (completions.ids[:, :, None] == excluded).any(dim=2) & completions.mask
        if bool(ended.any()):
            raise ConfigError.of(
                f"min_new_tokens is {self.sampling.min_new_tokens}, but the engine {type(self.engine).__name__} ended "
                "a response before; set min_new_tokens to 0, or use another engine"
            )
        return excluded.expand(len(ended), -1, -1) if sampled.support_ids is None else None

    def _check_support(self, sampled: Sampled) -> None:
        """Raise `ConfigError` if the engine truncated the vocabulary without reporting the support: no other model
        could be scored under the sampling distribution."""
        vocabulary = self.policy.base.network.config.get_text_config().vocab_size
        if sampled.support_ids is None and self.sampling.truncates(vocabulary):
            raise ConfigError.of(
                f"top_k is {self.sampling.top_k} and top_p is {self.sampling.top_p}, but the engine "
                f"{type(self.engine).__name__} does not report which tokens remain to sample from; set top_k to 0 and "
                "top_p to 1"
            )
