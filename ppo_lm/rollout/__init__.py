"""Sampling engines."""

from ppo_lm.rollout.completions import Completions, read_completions, write_completions
from ppo_lm.rollout.engine import EndConfig, RolloutEngine, Sampled, SamplingSettings
from ppo_lm.rollout.graph_engine import GraphEngine
from ppo_lm.rollout.pick import ENGINES, MakeEngine, find_engine, pick_engine
from ppo_lm.rollout.plain_engine import PlainEngine
from ppo_lm.rollout.remote import RemoteEngine, Samplers
from ppo_lm.rollout.sampling import draw_uniforms, find_excluded, sample_tokens, seed_of
from ppo_lm.rollout.shares import start_sampling
from ppo_lm.rollout.slot_engine import SlotEngine
from ppo_lm.rollout.stop_strings import StopStrings

__all__ = [
    "ENGINES",
    "Completions",
    "EndConfig",
    "GraphEngine",
    "MakeEngine",
    "PlainEngine",
    "RemoteEngine",
    "RolloutEngine",
    "Sampled",
    "Samplers",
    "SamplingSettings",
    "SlotEngine",
    "StopStrings",
    "draw_uniforms",
    "find_engine",
    "find_excluded",
    "pick_engine",
    "read_completions",
    "sample_tokens",
    "seed_of",
    "start_sampling",
    "write_completions",
]
