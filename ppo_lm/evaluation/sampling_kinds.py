"""How responses are sampled in training and in evaluations."""

from __future__ import annotations

from typing import Protocol

from ppo_lm.rollout import EndConfig, SamplingSettings


class SamplingConfig(EndConfig, Protocol):
    """The settings below, which `PPOConfig`, `EvaluateConfig` and `GenerateConfig` have."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float


class EvaluationConfig(SamplingConfig, Protocol):
    """The settings below too, which `PPOConfig` and `EvaluateConfig` have."""

    eval_temperature: float


def training_sampling(config: SamplingConfig) -> SamplingSettings:
    """How responses are sampled in training."""
    return SamplingSettings(config.max_new_tokens, config.temperature, config.top_k, config.top_p).ending_as(config)


def sampling_kinds(config: EvaluationConfig) -> dict[str, SamplingSettings]:
    """Both kinds of evaluation, by name: `sampled` as in training, and `near_greedy` (2403.17031) over the whole
    vocabulary. Only `sampled` has a meaningful KL, as the distribution at another temperature is not the one that
    training keeps near the reference."""
    return {
        "sampled": training_sampling(config),
        "near_greedy": SamplingSettings(config.max_new_tokens, config.eval_temperature).ending_as(config),
    }
