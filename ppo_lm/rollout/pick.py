"""Which engine samples from a policy."""

from __future__ import annotations

from ppo_lm.models import PolicyModel
from ppo_lm.rollout.engine import RolloutEngine
from ppo_lm.rollout.plain_engine import PlainEngine
from ppo_lm.rollout.slot_engine import SlotEngine

SLOTS, PROMPT_TOKENS = 64, 1024


def pick_engine(policy: PolicyModel, slots: int = SLOTS, prompt_tokens: int = PROMPT_TOKENS) -> RolloutEngine:
    """`SlotEngine` if the policy's network has a decoder of our own, else `PlainEngine`, which runs every network."""
    return SlotEngine(policy, slots, prompt_tokens) if policy.base.paths.accelerated else PlainEngine(policy)


def describe_engine(policy: PolicyModel) -> str:
    """One clause for the screen: which engine, and why not the fast one."""
    reason = policy.base.paths.why_not_accelerated
    return (
        "sampled in slots, with keys and values kept"
        if reason is None
        else f"sampled through transformers' own forward pass: {reason}"
    )
