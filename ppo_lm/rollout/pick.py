"""Which engine samples from a policy."""

from __future__ import annotations

from ppo_lm.fast.llama_decoder import why_not
from ppo_lm.models import PolicyModel
from ppo_lm.rollout.engine import RolloutEngine
from ppo_lm.rollout.plain_engine import PlainEngine
from ppo_lm.rollout.slot_engine import SlotEngine

SLOTS, PROMPT_TOKENS = 64, 1024


def pick_engine(policy: PolicyModel, slots: int = SLOTS, prompt_tokens: int = PROMPT_TOKENS) -> RolloutEngine:
    """`SlotEngine` where it can run the policy's network, else `PlainEngine`, which runs them all."""
    return PlainEngine(policy) if why_not(policy.base) else SlotEngine(policy, slots, prompt_tokens)


def describe_engine(policy: PolicyModel) -> str:
    """One line for the screen: which engine, and why not the fast one."""
    reason = why_not(policy.base)
    return (
        "sampled in slots, with keys and values kept"
        if reason is None
        else f"sampled through transformers' own forward pass: {reason}"
    )
