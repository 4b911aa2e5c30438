"""The experience of one step, in batches."""

from ppo_lm.experience_buffer.buffer import (
    ExperienceBuffer,
    TokenBudget,
    compute_in_micro_batches,
    micro_batches,
    split_by_tokens,
    trim_padding,
    try_micro_batches,
)

__all__ = [
    "ExperienceBuffer",
    "TokenBudget",
    "compute_in_micro_batches",
    "micro_batches",
    "split_by_tokens",
    "trim_padding",
    "try_micro_batches",
]
