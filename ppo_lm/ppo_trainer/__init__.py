"""PPO itself."""

from ppo_lm.ppo_trainer.generator import SequenceGenerator
from ppo_lm.ppo_trainer.model_trainer import ModelTrainer
from ppo_lm.ppo_trainer.ppo_trainer import PPOTrainer
from ppo_lm.ppo_trainer.value_adder import ValueAdder
from ppo_lm.rewards import RewardComputer

__all__ = ["ModelTrainer", "PPOTrainer", "RewardComputer", "SequenceGenerator", "ValueAdder"]
