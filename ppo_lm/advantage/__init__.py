"""From rewards and values to advantages and value targets."""

from ppo_lm.advantage.gae_advantage import GAEAdvantage
from ppo_lm.advantage.return_calculator import ReturnCalculator
from ppo_lm.advantage.td_error import TDError

__all__ = ["GAEAdvantage", "ReturnCalculator", "TDError"]
