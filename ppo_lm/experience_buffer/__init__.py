"""The experience of one step, in batches."""

from ppo_lm.experience_buffer.budget import MemoryBudget
from ppo_lm.experience_buffer.buffer import (
    ExperienceBuffer,
    MicroBatch,
    OwnPairs,
    collect_from_micro_batches,
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
    "collect_from_micro_batches",
    "compute_in_micro_batches",
    "micro_batches",
    "own_pairs",
    "split_by_tokens",
    "trim_padding",
    "try_micro_batches",
]
