"""Sampling by vLLM servers."""

from ppo_lm.rollout.remote.engine import VLLMEngine
from ppo_lm.rollout.remote.find import Samplers, find_servers

__all__ = ["Samplers", "VLLMEngine", "find_servers"]
