"""REINFORCE against the mean score of the batch, as an advantage estimator: it needs neither a value model nor several
responses to a prompt.

    ppo-lm train --model_name embedded --prompts embedded --advantage_estimator examples/own_estimator.py:REINFORCE
"""

from __future__ import annotations

import torch

from ppo_lm import PPOConfig
from ppo_lm.advantage import Estimator
from ppo_lm.types import SAPairs


def against_the_batch(sa_pairs: SAPairs, config: PPOConfig) -> SAPairs:
    """A = R − mean(R) on every sampled token, R being the sum of a response's KL-adjusted rewards."""
    totals = sa_pairs.require("rewards").sum(dim=1, keepdim=True)
    return sa_pairs.with_columns(advantages=torch.where(sa_pairs.action_mask, totals - totals.mean(), 0.0))


REINFORCE = Estimator(against_the_batch)
