"""Pure losses: numbers per token in, a loss per token out."""

from ppo_lm.training.kl_loss import kl_loss
from ppo_lm.training.losses import NewNumbers, PolicyLoss, TokenLoss, ValueLoss
from ppo_lm.training.policy_loss import policy_loss
from ppo_lm.training.policy_ratio import approximate_kl, policy_ratio
from ppo_lm.training.registry import POLICY_LOSSES, VALUE_LOSSES, Losses, find_losses
from ppo_lm.training.token_weights import (
    double_sided_importance,
    importance_weights,
    token_weights,
    truncated_importance,
)
from ppo_lm.training.value_loss import value_loss

__all__ = [
    "POLICY_LOSSES",
    "VALUE_LOSSES",
    "Losses",
    "NewNumbers",
    "PolicyLoss",
    "TokenLoss",
    "ValueLoss",
    "approximate_kl",
    "double_sided_importance",
    "find_losses",
    "importance_weights",
    "kl_loss",
    "policy_loss",
    "policy_ratio",
    "token_weights",
    "truncated_importance",
    "value_loss",
]
