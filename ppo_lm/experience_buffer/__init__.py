"""The experience of one step, in batches."""

from ppo_lm.experience_buffer.budget import MemoryBudget
from ppo_lm.experience_buffer.buffer import (
    ExperienceBuffer,
    MicroBatch,
    OwnPairs,
    compute_in_micro_batches,
    micro_batches,
    own_pairs,
    split_by_tokens,
    trim_padding,
    try_micro_batches,
)

__all__ = [
    "ExperienceBuffer",
    "MemoryBudget",
    "MicroBatch",
    "OwnPairs",
    "compute_in_micro_batches",
    "micro_batches",
    "own_pairs",
    "split_by_tokens",
    "trim_padding",
    "try_micro_batches",
]
