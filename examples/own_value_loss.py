"""The Huber loss as a value loss: quadratic near the target, linear further away, so that single returns far from the
rest do not dominate.

    ppo-lm train --value_loss examples/own_value_loss.py:HUBER
"""

from __future__ import annotations

import torch
from torch.nn.functional import huber_loss

from ppo_lm import PPOConfig
from ppo_lm.training import TokenLoss, ValueLoss
from ppo_lm.types import SAPairs


def huber(sa_pairs: SAPairs, new_values: torch.Tensor, config: PPOConfig) -> TokenLoss:
    """½ (V − G)² within 1 of the target G, |V − G| − ½ beyond."""
    targets = sa_pairs.require(config.value_target)
    far = (new_values - targets).abs() > 1
    return TokenLoss(huber_loss(new_values, targets, reduction="none"), {"value_far_fraction": far})


HUBER = ValueLoss(huber)
