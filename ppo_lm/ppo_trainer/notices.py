"""What a PPO run tells the user before its first step, one sentence each."""

from __future__ import annotations

from ppo_lm.advantage import Estimator
from ppo_lm.config import PPOConfig
from ppo_lm.run import few_updates


def notices(config: PPOConfig, estimator: Estimator, policy_updates: int, earlier_steps: int) -> list[str]:
    """`policy_updates`: in the whole run. `earlier_steps`: those that the models were trained for before this run."""
    found = few_updates(policy_updates, "raise steps")
    if config.value_model and not estimator.needs_values:
        found.append(
            f"value_model is not used: advantage_estimator {config.advantage_estimator} compares responses without "
            "values"
        )
    if earlier_steps:
        found.append(
            f"the models start as {earlier_steps} earlier steps left them; the learning rate schedule starts again"
        )
    return found
