"""From a score per sequence and a KL per token to a reward per token."""

from __future__ import annotations

import torch

from ppo_lm.ops import masked_whiten
from ppo_lm.token_attribution import attribute_scores
from ppo_lm.types import SAPairs


class RewardAdjuster:
    """reward_t = score · [t is the last sampled token] − kl_coef · kl_t (2009.01325).

    missing_eos_score: replaces the score of sequences that did not end (2403.17031); None keeps it.
    whiten: scale rewards to variance 1 over the batch without moving their mean (2403.17031).
    """

    def __init__(self, missing_eos_score: float | None = None, whiten: bool = False):
        self.missing_eos_score, self.whiten = missing_eos_score, whiten

    def adjust_rewards_with_kl(self, sa_pairs: SAPairs, kl_coef: float) -> SAPairs:
        """Add the column `rewards` from `scores`, `terminated` and `kl`."""
        scores, mask = sa_pairs.require("scores"), sa_pairs.action_mask
        if self.missing_eos_score is not None:
            scores = torch.where(sa_pairs.terminated, scores, self.missing_eos_score)
        rewards = attribute_scores(scores, mask) - kl_coef * torch.where(mask, sa_pairs.require("kl"), 0.0)
        return sa_pairs.with_columns(rewards=masked_whiten(rewards, mask, shift_mean=False) if self.whiten else rewards)
