"""Sampling engines."""

from ppo_lm.rollout.completions import write_completions
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings
from ppo_lm.rollout.local_engine import LocalEngine
from ppo_lm.rollout.sampling import sample_tokens

__all__ = ["LocalEngine", "RolloutEngine", "Sampled", "SamplingSettings", "sample_tokens", "write_completions"]
