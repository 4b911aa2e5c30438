"""What a configuration names outside itself, checked and loaded before any model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ppo_lm.base_setup import find_reward_folder
from ppo_lm.config import PPOConfig
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.rewards import FunctionReward, load_function, tldr_heuristics


class Inputs(NamedTuple):
    """`reward` is None where `reward_folder` names a reward model instead; `prompts` is None where the configuration names none."""

    reward_folder: Path | None
    reward: FunctionReward | None
    monitor: FunctionReward | None
    prompts: PromptSet | None


def load_inputs(config: PPOConfig, reward: Callable | None = None, monitor: Callable | None = None) -> Inputs:
    """Load reward, monitor and prompts; a callable given stands in for the configuration's name. All problems are raised as one error."""
    problems: list[UserError] = []

    def attempt(load, *arguments):
        try:
            return load(*arguments)
        except UserError as error:
            problems.append(error)

    folder = None if reward is not None else attempt(find_reward_folder, config.reward)
    if reward is None and config.reward is None:
        reward = tldr_heuristics
    elif reward is None and ":" in config.reward:
        reward = attempt(load_function, config.reward)
    if monitor is None and config.monitor is not None:
        monitor = attempt(load_function, config.monitor)
    prompts = None if config.prompts is None else attempt(load_prompts, config.prompts, config.prompt_column)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError([str(problem) for problem in problems]) from problems[0]
    return Inputs(folder, reward and FunctionReward(reward), monitor and FunctionReward(monitor), prompts)
