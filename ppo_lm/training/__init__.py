"""Pure losses: tensors and a denominator in, a loss and sums for metrics out."""

from ppo_lm.training.kl_loss import kl_loss
from ppo_lm.training.policy_loss import PolicyLoss, policy_loss
from ppo_lm.training.policy_ratio import policy_ratio
from ppo_lm.training.token_weights import token_weights, truncated_importance
from ppo_lm.training.value_loss import ValueLoss, value_loss

__all__ = [
    "PolicyLoss",
    "ValueLoss",
    "kl_loss",
    "policy_loss",
    "policy_ratio",
    "token_weights",
    "truncated_importance",
    "value_loss",
]
