"""Pure losses: tensors and a denominator in, a loss and sums for metrics out."""

from ppo_lm.training.policy_loss import PolicyLoss, policy_loss
from ppo_lm.training.policy_ratio import policy_ratio
from ppo_lm.training.value_loss import ValueLoss, value_loss

__all__ = ["PolicyLoss", "ValueLoss", "policy_loss", "policy_ratio", "value_loss"]
