"""KL to the reference, and the reward adjusted by it."""

from ppo_lm.reward_kl.kl_controller import KLController
from ppo_lm.reward_kl.kl_divergence import KLDivergence
from ppo_lm.reward_kl.reward_adjuster import RewardAdjuster

__all__ = ["KLController", "KLDivergence", "RewardAdjuster"]
