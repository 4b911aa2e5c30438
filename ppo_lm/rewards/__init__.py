"""One protocol for everything that scores responses: reward models, functions, classifiers, services, and sums of
these."""

from ppo_lm.rewards.classifier import ClassifierReward
from ppo_lm.rewards.columns import check_columns, check_prompt_columns
from ppo_lm.rewards.combined import WeightedSum, combine, unique_names
from ppo_lm.rewards.function_reward import FunctionReward
from ppo_lm.rewards.loading import DEFAULT_REWARD, as_list_of_rewards, as_reward, load_reward, without_addresses
from ppo_lm.rewards.model_reward import ModelReward
from ppo_lm.rewards.registry import REWARDS
from ppo_lm.rewards.remote import RemoteReward
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward, RewardContext, ask, identify, make_ready
from ppo_lm.rewards.reward_computer import RewardComputer
from ppo_lm.rewards.scores import Scores, as_list
from ppo_lm.rewards.tldr import tldr_heuristics

__all__ = [
    "DEFAULT_REWARD",
    "REWARDS",
    "ClassifierReward",
    "FunctionReward",
    "ModelReward",
    "RemoteReward",
    "Responses",
    "Reward",
    "RewardComputer",
    "RewardContext",
    "Scores",
    "WeightedSum",
    "as_list",
    "as_list_of_rewards",
    "as_reward",
    "ask",
    "check_columns",
    "check_prompt_columns",
    "combine",
    "identify",
    "load_reward",
    "make_ready",
    "tldr_heuristics",
    "unique_names",
    "without_addresses",
]
