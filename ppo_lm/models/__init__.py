"""The four roles on one shared base."""

from ppo_lm.models.base_model import BaseModel
from ppo_lm.models.policy_model import PolicyModel
from ppo_lm.models.reward_model import RewardModel
from ppo_lm.models.sft_model import SFTModel
from ppo_lm.models.value_model import ValueModel

__all__ = ["BaseModel", "PolicyModel", "RewardModel", "SFTModel", "ValueModel"]
