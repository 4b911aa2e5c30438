"""`ppo-lm reward`: a reward model, from preferences."""

from __future__ import annotations

from ppo_lm.cli.parser import OF_A_RUN, ConfigParser
from ppo_lm.cli.stages import read_run
from ppo_lm.config import RewardConfig


def make_parser(prog: str) -> ConfigParser[RewardConfig]:
    """The options of the command."""
    return ConfigParser(RewardConfig, prog, "Train a reward model on preferences.", task="reward", general=OF_A_RUN)


def run(arguments: list[str], prog: str) -> None:
    """Train the reward model that the options describe, or resume a run."""
    request = read_run(make_parser(prog), arguments)
    from ppo_lm.reward_modeling import run_reward

    run_reward(request.config, **request.options())
