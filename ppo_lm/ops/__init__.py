"""Small tensor functions that several rooms share."""

from ppo_lm.ops.choices import Choices, top_choices
from ppo_lm.ops.logprobs import action_logprobs, position_ids
from ppo_lm.ops.masked import explained_variance, masked_mean, masked_sum, masked_whiten, next_where
from ppo_lm.ops.memory import is_out_of_memory

__all__ = [
    "Choices",
    "action_logprobs",
    "explained_variance",
    "is_out_of_memory",
    "masked_mean",
    "masked_sum",
    "masked_whiten",
    "next_where",
    "position_ids",
    "top_choices",
]
