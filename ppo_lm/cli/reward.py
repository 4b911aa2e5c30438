"""`ppo-lm reward`: a reward model, from preferences."""

from __future__ import annotations

from ppo_lm.cli.stages import read_run
from ppo_lm.config import RewardConfig


def run(arguments: list[str], prog: str) -> None:
    """Train the reward model that the options describe, or resume a run."""
    request = read_run(RewardConfig, arguments, prog, "Train a reward model on preferences.", "reward")
    from ppo_lm.reward_modeling import run_reward

    run_reward(request.config, **request.options())
