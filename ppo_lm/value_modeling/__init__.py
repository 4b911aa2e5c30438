"""Between reward modelling and PPO: pretraining the value model on scored demonstrations."""

from ppo_lm.value_modeling.stage import run_value
from ppo_lm.value_modeling.value_trainer import ScoredDemonstration, measure_values, train_value_model

__all__ = ["ScoredDemonstration", "measure_values", "run_value", "train_value_model"]
