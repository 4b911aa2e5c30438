"""GSPO ("Group sequence policy optimization", 2507.18071) as a policy loss: one ratio per response, the geometric mean
of its tokens', clipped as a whole.

    ppo-lm train --policy_loss examples/own_policy_loss.py:GSPO --loss_aggregation sequence_mean --clip_epsilon 4e-4
"""

from __future__ import annotations

import torch

from ppo_lm import PPOConfig
from ppo_lm.training import NewNumbers, PolicyLoss, TokenLoss
from ppo_lm.types import SAPairs


def gspo(sa_pairs: SAPairs, new: NewNumbers, config: PPOConfig) -> TokenLoss:
    """−min(s·A, clip(s, 1 ± ε)·A) with s = exp(mean over the response of log π_θ − log π_old)."""
    mask, advantages = sa_pairs.action_mask, sa_pairs.require("advantages")
    log_ratio = torch.where(mask, new.logprobs - sa_pairs.old_logprobs, 0.0)
    lengths = sa_pairs.lengths.clamp(min=1)[:, None]
    ratio = (log_ratio.sum(dim=1, keepdim=True) / lengths).exp()
    clipped = ratio.clamp(1 - config.clip_epsilon, 1 + (config.clip_epsilon_high or config.clip_epsilon))
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return TokenLoss(-surrogate, {"clip_fraction": surrogate != ratio * advantages})


GSPO = PolicyLoss(gspo)
