"""Sampling by the servers of other programs."""

from ppo_lm.rollout.remote.dialect import Dialect
from ppo_lm.rollout.remote.engine import RemoteEngine
from ppo_lm.rollout.remote.find import Samplers, find_servers
from ppo_lm.rollout.remote.sglang import SGLANG
from ppo_lm.rollout.remote.vllm import VLLM

__all__ = ["SGLANG", "VLLM", "Dialect", "RemoteEngine", "Samplers", "find_servers"]
