"""Triton kernels in place of several passes over a tensor."""

from ppo_lm.kernels.elementwise import rotate, swiglu, swiglu_gradients
from ppo_lm.kernels.support import can_take, why_not
from ppo_lm.kernels.vocabulary import exponentials, sums_of_blocks

__all__ = [
    "can_take",
    "exponentials",
    "rotate",
    "sums_of_blocks",
    "swiglu",
    "swiglu_gradients",
    "why_not",
]
