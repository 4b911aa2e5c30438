"""Triton kernels for GPUs. They compute in fp32, and round once to what they write; those of attention also round what
they multiply."""

from ppo_lm.kernels.gpu.attention import attend, attend_cached, attend_gradients
from ppo_lm.kernels.gpu.elementwise import (
    add_and_normalise,
    keep,
    normalise,
    rotate,
    rotate_gradients,
    swiglu,
    swiglu_gradients,
)
from ppo_lm.kernels.gpu.vocabulary import exponentials, sums_of_blocks

__all__ = [
    "add_and_normalise",
    "attend",
    "attend_cached",
    "attend_gradients",
    "exponentials",
    "keep",
    "normalise",
    "rotate",
    "rotate_gradients",
    "sums_of_blocks",
    "swiglu",
    "swiglu_gradients",
]
