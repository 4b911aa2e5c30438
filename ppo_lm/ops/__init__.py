"""Small tensor functions that several rooms share."""

from ppo_lm.ops.logprobs import action_logprobs, position_ids
from ppo_lm.ops.masked import masked_mean, masked_sum, masked_whiten

__all__ = ["action_logprobs", "masked_mean", "masked_sum", "masked_whiten", "position_ids"]
