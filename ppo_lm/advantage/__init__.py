"""From rewards and values to advantages and value targets."""

from ppo_lm.advantage.estimators import ESTIMATORS, Estimator, find_estimator
from ppo_lm.advantage.gae_advantage import GAEAdvantage, length_adaptive_lam
from ppo_lm.advantage.group_advantage import GroupAdvantage
from ppo_lm.advantage.return_calculator import ReturnCalculator
from ppo_lm.advantage.td_error import TDError

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "GAEAdvantage",
    "GroupAdvantage",
    "ReturnCalculator",
    "TDError",
    "find_estimator",
    "length_adaptive_lam",
]
