"""Sampling engines."""

from ppo_lm.rollout.completions import write_completions
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings
from ppo_lm.rollout.graph_engine import GraphEngine
from ppo_lm.rollout.pick import ENGINES, MakeEngine, find_engine, pick_engine
from ppo_lm.rollout.plain_engine import PlainEngine
from ppo_lm.rollout.sampling import draw_uniforms, sample_tokens
from ppo_lm.rollout.slot_engine import SlotEngine

__all__ = [
    "ENGINES",
    "GraphEngine",
    "MakeEngine",
    "PlainEngine",
    "RolloutEngine",
    "Sampled",
    "SamplingSettings",
    "SlotEngine",
    "draw_uniforms",
    "find_engine",
    "pick_engine",
    "sample_tokens",
    "write_completions",
]
